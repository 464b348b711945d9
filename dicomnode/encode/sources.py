"""The source images as highdicom can take them, and references to them.

highdicom asks much of its sources: it needs attributes that real images lack, refuses a sex or a date
it does not know, wants one orientation spelt identically on every slice, and for multi-frame images
the geometry in the shared groups. So it gets stand-ins; the true patient and study attributes are put
back afterwards (`dress.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from dicomnode.errors import PermanentError
from dicomnode.header_index import HeaderIndex
from dicomnode.read.frames import FrameHeader
from dicomnode.study import Instance, SourceFrame, SourceVolume, text

MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber",
    "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
SAME_ORIENTATION = 1e-3
GEOMETRY_MACROS = ("PlaneOrientationSequence", "PixelMeasuresSequence")


@dataclass(frozen=True)
class ImageReference:
    """One image, or one frame of it, that a slice came from."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None

    @property
    def frame_numbers(self) -> list[int] | None:
        """The frame as highdicom wants it."""
        return None if self.frame_number is None else [self.frame_number]


def reference(frame: SourceFrame) -> ImageReference:
    """How an object names the image behind a slice."""
    return ImageReference(frame.instance.sop_class_uid, frame.instance.sop_instance_uid, frame.frame_number)


def check_encodable(source: SourceVolume) -> None:
    """Raise PermanentError when a segmentation could not lie on the images of this source."""
    name = f"series {source.series.series_instance_uid}"
    instances = {frame.instance.sop_instance_uid: frame.instance for frame in source.frames}
    if len({_size(instance) for instance in instances.values()}) > 1:
        raise PermanentError(f"{name} mixes image sizes: not supported")
    if source.volume.has_geometry:
        _check_placed(source, tuple(instances.values()), name)


def _size(instance: Instance) -> tuple[float | None, float | None]:
    header = FrameHeader(SourceFrame(instance), (instance.values,))
    return header.number("Rows"), header.number("Columns")


def _check_placed(source: SourceVolume, instances: Sequence[Instance], name: str) -> None:
    frames_of_reference = {text(instance.values, "FrameOfReferenceUID") for instance in instances}
    if "" in frames_of_reference:
        raise PermanentError(
            f"{name} has positions but no frame of reference: the header must be corrected at its source"
        )
    multi_frame = {frame.frame_number is not None for frame in source.frames}
    if multi_frame == {True} and len(instances) > 1:
        raise PermanentError(f"{name} takes its frames from several multi-frame instances: not supported")
    if multi_frame == {True} and not instances[0].header.get("PerFrameFunctionalGroupsSequence"):
        raise PermanentError(f"{name}: multi-frame images without functional groups are not supported")
    if len(multi_frame) > 1:
        raise PermanentError(f"{name} mixes single-frame and multi-frame instances: not supported")
    if len(frames_of_reference) > 1:
        raise PermanentError(f"{name} mixes frames of reference: not supported")


def stand_ins(source: SourceVolume, slices: Sequence[int]) -> list[Dataset]:
    """One header for each of these slices, or a single multi-frame header with just their frames.

    What all images of the series have in common is said by the first of them, with a lesion or not.
    """
    if source.frames[0].frame_number is not None:
        return [_multi_frame(source, slices)]
    first = patient_stand_in(source.frames[0].instance.header)
    _complete_geometry(first, source)
    found = [_single_frame(source.frames[index].instance.values, first) for index in slices]
    first.update(found[0])
    return [first, *found[1:]]


def patient_stand_in(header: Dataset) -> Dataset:
    """A copy without patient and study attributes: highdicom refuses odd ones, and logs odd names."""
    copied = shallow_copy(header)
    for keyword in MAY_BE_EMPTY:
        setattr(copied, keyword, "")
    return copied


def shallow_copy(header: Dataset) -> Dataset:
    """A data set that can be changed without changing `header`; it shares sequences and their items."""
    copied = Dataset()
    for element in header:
        copied[element.tag] = copy(element)
    return copied


def _single_frame(header: Dataset | HeaderIndex, first: Dataset) -> Dataset:
    """Just what highdicom reads of every slice."""
    copied = Dataset()
    for keyword in (
        "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
        "FrameOfReferenceUID", "Rows", "Columns", "ImagePositionPatient",
    ):  # fmt: skip
        copied[keyword] = header[keyword]
    orientation = np.asarray(header["ImageOrientationPatient"].value, dtype=np.float64)
    if not np.allclose(orientation, np.asarray(first.ImageOrientationPatient), atol=SAME_ORIENTATION):
        raise PermanentError(f"series {first.SeriesInstanceUID} has slices of different orientation")
    copied.ImageOrientationPatient = first.ImageOrientationPatient
    return copied


def _complete_geometry(header: Dataset, source: SourceVolume) -> None:
    """Slice thickness may be empty or 0 in images, but the SEG needs one: then the slice distance."""
    if float(text(header, "SliceThickness") or 0) <= 0:
        header.SliceThickness = f"{source.volume.spacing_mm[0]:.10g}"
    if not text(header, "SpacingBetweenSlices") and "SpacingBetweenSlices" in header:
        del header.SpacingBetweenSlices


def _multi_frame(source: SourceVolume, slices: Sequence[int]) -> Dataset:
    """The multi-frame header with the frames of these slices only, in slice order.

    Other frames may lie at the same positions (time points, b-values), which highdicom refuses.
    """
    header = patient_stand_in(source.frames[0].instance.header)
    groups = header.PerFrameFunctionalGroupsSequence
    numbers = [source.frames[index].frame_number for index in slices]
    chosen = [groups[number - 1] for number in numbers if number]
    shared = shallow_copy(shared_groups(header))
    for macro in GEOMETRY_MACROS:
        if macro not in shared:
            shared[macro] = groups[(source.frames[0].frame_number or 1) - 1][macro]
    measures = shallow_copy(shared.PixelMeasuresSequence[0])  # highdicom adds the spacing of slices to it
    shared.PixelMeasuresSequence = DicomSequence([measures])
    header.SharedFunctionalGroupsSequence = DicomSequence([shared])
    if "PlanePositionSequence" in shared:
        chosen = [_with_position(group, shared) for group in chosen]
    header.PerFrameFunctionalGroupsSequence = DicomSequence(chosen)
    header.NumberOfFrames = len(chosen)
    return header


def shared_groups(header: Dataset) -> Dataset:
    """What holds for all frames of a multi-frame image: nothing where it says everything of each frame."""
    items = header.get("SharedFunctionalGroupsSequence")
    return items[0] if items else Dataset()


def _with_position(group: Dataset, shared: Dataset) -> Dataset:
    """An image of one frame may hold its position in the shared groups."""
    if "PlanePositionSequence" in group:
        return group
    copied = shallow_copy(group)
    copied["PlanePositionSequence"] = shared["PlanePositionSequence"]
    return copied


def frame_position_mm(frame: SourceFrame) -> list[float]:
    """Image Position (Patient) of a frame in LPS mm, as its own instance says it."""
    if frame.frame_number is None:
        position_mm = FrameHeader(frame, (frame.instance.values,)).numbers("ImagePositionPatient", 3)
        if position_mm is not None:
            return list(position_mm)
        raise PermanentError(f"instance {frame.instance.sop_instance_uid}: image without a position")
    header = frame.instance.header
    for group in (
        header.PerFrameFunctionalGroupsSequence[frame.frame_number - 1],
        shared_groups(header),
    ):
        if "PlanePositionSequence" in group:
            return [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
    raise PermanentError(f"instance {frame.instance.sop_instance_uid}: frame without a position")
