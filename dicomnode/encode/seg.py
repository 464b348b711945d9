"""Lesions as a DICOM Segmentation (PS3.3 A.51): BINARY, on the source grid, empty frames left out."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicomnode.encode.context import ResultContext
from dicomnode.encode.dress import finish, identity, plain_text
from dicomnode.encode.equipment import MANUFACTURER, RESEARCH_ONLY
from dicomnode.encode.layered import LayeredSegmentation
from dicomnode.encode.parts import Part, whole
from dicomnode.encode.sources import check_encodable, stand_ins
from dicomnode.encode.uids import dimension_organization_uid, tracking_uid
from dicomnode.encode.unplaced import take_out_of_space, unplaced_stand_ins
from dicomnode.encode.whole_source import refer_to_images, space_slices
from dicomnode.errors import PermanentError
from inference.codes import Code
from inference.labelmap import Lesion, LesionMap
from inference.measure import LesionMeasurement

GOLDEN_ANGLE = 0.381966
"""Part of the colour circle between the hues of neighbouring lesion numbers: none are alike."""


def encode_seg(
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    kind: Literal["seg", "labelmap"] = "seg",
    part: Part | None = None,
) -> Dataset:
    """The lesions as segments, in frames of their own or as a label map; all of them, or those of a `part`.

    Frame positions are those of the source images, character by character; frames of images without
    a place in the patient have none. Raises PermanentError when there is no lesion, or the source
    cannot carry a segmentation, ValueError for a label map of lesions that may overlap.
    """
    check_encodable(context.source)
    if not lesion_map.lesions:
        raise PermanentError("no lesions: there is no segmentation, only the report that says so")
    if len(measurements) != len(lesion_map.lesions):
        raise ValueError(f"{len(lesion_map.lesions)} lesions but {len(measurements)} measurements")
    part = part or whole(lesion_map)
    placed = context.source.volume.has_geometry
    slices = part.slices if placed else list(range(lesion_map.shape[0]))
    images = stand_ins(context.source, slices) if placed else unplaced_stand_ins(context.source)
    make, pixels = _pixels(lesion_map, part, slices)
    if kind == "labelmap" and make is LayeredSegmentation:
        raise ValueError("a label map has one number for each voxel: give a part without overlaps")
    seg: Dataset = make(
        source_images=images,
        pixel_array=pixels,
        segmentation_type="BINARY" if kind == "seg" else "LABELMAP",
        segment_descriptions=[_segment(lesion, part, context) for lesion in part.lesions],
        content_label="LESIONS",
        content_description=plain_text(f"{context.card.title}. {RESEARCH_ONLY}")[:64],
        omit_empty_frames=True,
        **identity(context, kind, part.number, part.words),
    )
    _fix_dimensions(seg, context)
    if placed:
        _restore_frame_numbers(seg, context, slices)
        refer_to_images(seg, context.source)
        space_slices(seg, context.source)
    else:
        take_out_of_space(seg, context)
    finish(seg, context)
    return seg


def lesion_name(number: int) -> str:
    """Tracking ID (0062,0020): what people call the lesion, in SEG and reports."""
    return f"Lesion {number}"


def coded(code: Code) -> Any:
    """A code of the model card as highdicom's coded concept."""
    return CodedConcept(code.value, code.scheme, plain_text(code.meaning))


def _pixels(
    lesion_map: LesionMap, part: Part, slices: Sequence[int]
) -> tuple[type[Segmentation], np.ndarray[Any, Any]]:
    """Integer label values, never one-hot: highdicom is many times faster on them."""
    layers = [layer[slices] for layer in part.layers(lesion_map)]
    if len(layers) == 1:
        return Segmentation, layers[0]
    return LayeredSegmentation, np.stack(layers, axis=-1)


def _segment(lesion: Lesion, part: Part, context: ResultContext) -> Any:
    label = lesion.label
    return SegmentDescription(
        segment_number=lesion.number - part.offset,
        segment_label=plain_text(f"{lesion_name(lesion.number)}: {label.name}")[:64],
        segmented_property_category=coded(label.category),
        segmented_property_type=coded(label.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=plain_text(context.card.title),
            family=codes.cid7162.ArtificialIntelligence,
            version=context.card.version,
            source=MANUFACTURER,
            parameters={"sha256": context.model_digest},
        ),
        tracking_uid=tracking_uid(context, lesion.number),
        tracking_id=lesion_name(lesion.number),
        anatomic_regions=[coded(label.site)] if label.site else None,
        display_color=CIELabColor.from_rgb(*_colour(label.rgb, lesion.number)),
    )


def _colour(rgb: tuple[int, int, int], number: int) -> tuple[int, int, int]:
    """The label's colour for lesion 1, then one turned in hue for every further lesion."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in rgb))
    turned = colorsys.hls_to_rgb((hue + GOLDEN_ANGLE * (number - 1)) % 1.0, lightness, saturation)
    red, green, blue = (round(255 * value) for value in turned)
    return red, green, blue


def _fix_dimensions(seg: Dataset, context: ResultContext) -> None:
    """highdicom draws a random UID here, which would make every run a different object."""
    uid = dimension_organization_uid(context)
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid


def _restore_frame_numbers(seg: Dataset, context: ResultContext, slices: Sequence[int]) -> None:
    """Frame numbers of the stand-in back to those of the multi-frame source."""
    frames = context.source.frames
    if frames[0].frame_number is None:
        return
    # Frames of one slice share these items, and each must be changed once.
    images = {
        id(image): image
        for group in seg.PerFrameFunctionalGroupsSequence
        for image in group.DerivationImageSequence[0].SourceImageSequence
    }
    for image in images.values():
        image.ReferencedFrameNumber = frames[slices[int(image.ReferencedFrameNumber) - 1]].frame_number
