"""Outlines and sizes drawn over the images: a softcopy presentation state (PS3.3 A.33.1, A.33.2).

For viewers that show no segmentations. Grey images have a grayscale presentation state, which also
carries the window of the images; colour images have a color one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import get_data
from typing import Any

import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import (
    ColorSoftcopyPresentationState,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from pydicom import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import outlines
from dicomnode.encode.dress import copy_laterality, finish, identity, plain_text
from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.seg import lesion_name
from dicomnode.encode.sources import check_encodable, patient_stand_in, shallow_copy, shared_groups
from dicomnode.encode.uids import tracking_uid
from dicomnode.encode.words import size_of
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement

LAYER = "LESIONS"
PIXEL_VALUES = "PixelValueTransformationSequence"
YELLOW = (86.0, 5.0, 80.0)
"""L*, a*, b*."""
SRGB = "_icc_profiles/sRGB_v4_ICC_preference.icc"
TEXT_PIXELS = 10.0
"""Height of the room for a label, in pixels of the image."""


def encode_contours(
    lesion_map: LesionMap, measurements: Sequence[LesionMeasurement], context: ResultContext
) -> Dataset:
    """The outline of every lesion on every image of it, and its size on its key image."""
    source = context.source
    check_encodable(source)
    slices = [int(index) for index in np.flatnonzero(lesion_map.occupied)]
    headers = _headers(slices, context)
    layer = GraphicLayer(LAYER, order=1, description=RESEARCH_ONLY, display_color=CIELabColor(*YELLOW))
    annotations = []
    for index in slices:
        frame = source.frames[index]
        graphics, words = _drawn(index, lesion_map, measurements, context)
        annotations.append(
            GraphicAnnotation(
                referenced_images=[headers[frame.instance.sop_instance_uid]],
                graphic_layer=layer,
                referenced_frame_number=frame.frame_number,
                graphic_objects=graphics,
                text_objects=words,
            )
        )
    grey = int(source.frames[0].instance.header.SamplesPerPixel) == 1
    make = GrayscaleSoftcopyPresentationState if grey else _color_state
    state: Dataset = make(
        referenced_images=list(headers.values()),
        content_label=LAYER,
        content_description=plain_text(f"{context.card.title}. {RESEARCH_ONLY}")[:64],
        graphic_annotations=annotations,
        graphic_layers=[layer],
        **identity(context, "contours"),
    )
    finish(state, context)
    copy_laterality(state, context)
    _name_true_classes(state, context)
    _stamp(state)
    return state


def _color_state(**arguments: Any) -> Any:
    """Colours of images that do not say what they mean are taken as sRGB."""
    return ColorSoftcopyPresentationState(icc_profile=get_data("highdicom", SRGB), **arguments)


def _headers(slices: Sequence[int], context: ResultContext) -> dict[str, Dataset]:
    """A header without patient attributes of every image with a lesion."""
    instances = [context.source.frames[index].instance for index in slices]
    return {instance.sop_instance_uid: _stand_in(instance.header) for instance in instances}


def _stand_in(header: Dataset) -> Dataset:
    """highdicom asks every multi-frame image for functional groups, which ultrasound loops have none of, and
    takes the values of pixels from the shared ones alone. It refers to no frame of a class of single frames,
    under which some loops come: see `_name_true_classes`.
    """
    copied = patient_stand_in(header)
    if "NumberOfFrames" in copied:
        if copied.SOPClassUID == UltrasoundImageStorage and int(copied.NumberOfFrames) > 1:
            copied.SOPClassUID = UltrasoundMultiFrameImageStorage
        frames = copied.get("PerFrameFunctionalGroupsSequence")
        shared, frames = shallow_copy(shared_groups(copied)), list(frames or ())
        values = [group.get(PIXEL_VALUES) for group in frames]
        if values and values[0] and all(value == values[0] for value in values):
            shared[PIXEL_VALUES] = frames[0][PIXEL_VALUES]
            frames = [shallow_copy(group) for group in frames]
            for group in frames:
                del group[PIXEL_VALUES]
        copied.SharedFunctionalGroupsSequence = [shared]
        copied.PerFrameFunctionalGroupsSequence = frames or [Dataset()] * int(copied.NumberOfFrames)
    return copied


def _drawn(
    index: int, lesion_map: LesionMap, measurements: Sequence[LesionMeasurement], context: ResultContext
) -> tuple[list[Any], list[Any]]:
    """Outlines of the lesions in one slice, and the words for those whose key slice it is."""
    graphics, words = [], []
    for lesion, measurement in zip(lesion_map.lesions, measurements, strict=True):
        if not lesion.box[0].start <= index < lesion.box[0].stop:
            continue
        names = {
            "tracking_id": lesion_name(lesion.number),
            "tracking_uid": tracking_uid(context, lesion.number),
        }
        contours = outlines(lesion_map.plane(lesion.number, index))
        graphics += [GraphicObject("POLYLINE", contour, "PIXEL", **names) for contour in contours]
        if measurement.key_slice == index:
            box = _text_box(np.concatenate(contours), lesion_map.shape[1:])
            told = plain_text(f"{lesion_name(lesion.number)} {size_of(measurement)}").strip()
            words.append(TextObject(told, "PIXEL", bounding_box=box, text_justification="LEFT", **names))
    return graphics, words


def _text_box(points: np.ndarray[Any, Any], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom: to the right of the outline, to its left where there is more room, or over it
    where there is none.
    """
    rows, columns = shape
    (left, top), (right, _) = points.min(axis=0), points.max(axis=0)
    begin, end = (right + 2, columns) if columns - right >= left else (0.0, left - 2)
    if end - begin < 1:
        begin, end = 0.0, columns
    upper = min(max(float(top), 0.0), max(rows - TEXT_PIXELS, 0.0))
    return float(begin), upper, float(end), min(upper + TEXT_PIXELS, float(rows))


def _name_true_classes(state: Dataset, context: ResultContext) -> None:
    """The SOP classes of the images, in place of those of their stand-ins."""
    classes = {f.instance.sop_instance_uid: f.instance.sop_class_uid for f in context.source.frames}
    holders = [
        *state.ReferencedSeriesSequence,
        *state.GraphicAnnotationSequence,
        *state.get("SoftcopyVOILUTSequence", ()),
    ]
    for holder in holders:
        for image in holder.get("ReferencedImageSequence", ()):
            image.ReferencedSOPClassUID = classes[str(image.ReferencedSOPInstanceUID)]


def _stamp(state: Dataset) -> None:
    """Presentation Creation Date and Time are the moment of the result, so that a repeat is the same."""
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    for keyword in ("ContentDate", "ContentTime"):
        delattr(state, keyword)
