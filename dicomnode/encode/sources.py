"""The source images as highdicom can take them, and references to them.

highdicom asks much of its sources: it needs attributes that real images lack, refuses a sex or a date
it does not know, wants one orientation spelt identically on every slice, and for multi-frame images
the geometry in the shared groups. So it gets stand-ins; the true patient and study attributes are put
back afterwards (`dress.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence

from dicomnode.errors import PermanentError
from dicomnode.study import SourceFrame, SourceVolume, text

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
    headers = [frame.instance.header for frame in source.frames]
    if len({(h.Rows, h.Columns) for h in headers}) > 1:
        raise PermanentError(f"{name} mixes image sizes: not supported")
    if source.volume.has_geometry:
        _check_placed(source, headers, name)


def _check_placed(source: SourceVolume, headers: Iterable[Dataset], name: str) -> None:
    if not all(text(header, "FrameOfReferenceUID") for header in headers):
        raise PermanentError(
            f"{name} has positions but no frame of reference: the header must be corrected at its source"
        )
    multi_frame = {frame.frame_number is not None for frame in source.frames}
    if multi_frame == {True} and len({h.SOPInstanceUID for h in headers}) > 1:
        raise PermanentError(f"{name} takes its frames from several multi-frame instances: not supported")
    if multi_frame == {True} and not all(h.get("PerFrameFunctionalGroupsSequence") for h in headers):
        raise PermanentError(f"{name}: multi-frame images without functional groups are not supported")
    if len(multi_frame) > 1:
        raise PermanentError(f"{name} mixes single-frame and multi-frame instances: not supported")
    if len({header.FrameOfReferenceUID for header in headers}) > 1:
        raise PermanentError(f"{name} mixes frames of reference: not supported")


def stand_ins(source: SourceVolume) -> list[Dataset]:
    """One header per slice in slice order, or a single multi-frame header with just these frames."""
    if source.frames[0].frame_number is not None:
        return [_multi_frame(source)]
    first = patient_stand_in(source.frames[0].instance.header)
    _complete_geometry(first, source)
    others = [_single_frame(frame.instance.header, first) for frame in source.frames[1:]]
    return [first, *others]


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


def _single_frame(header: Dataset, first: Dataset) -> Dataset:
    """Just what highdicom reads of every further slice."""
    copied = Dataset()
    for keyword in (
        "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
        "FrameOfReferenceUID", "Rows", "Columns", "ImagePositionPatient",
    ):  # fmt: skip
        copied[keyword] = header[keyword]
    orientation = np.asarray(header.ImageOrientationPatient, dtype=np.float64)
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


def _multi_frame(source: SourceVolume) -> Dataset:
    """The multi-frame header with the frames of the volume only, in slice order.

    Other frames may lie at the same positions (time points, b-values), which highdicom refuses.
    """
    header = patient_stand_in(source.frames[0].instance.header)
    groups = header.PerFrameFunctionalGroupsSequence
    chosen = [groups[frame.frame_number - 1] for frame in source.frames if frame.frame_number]
    shared = shallow_copy(header.SharedFunctionalGroupsSequence[0])
    for macro in GEOMETRY_MACROS:
        if macro not in shared:
            shared[macro] = chosen[0][macro]
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    if "PlanePositionSequence" in shared:
        chosen = [_with_position(group, shared) for group in chosen]
    header.PerFrameFunctionalGroupsSequence = Sequence(chosen)
    header.NumberOfFrames = len(chosen)
    return header


def _with_position(group: Dataset, shared: Dataset) -> Dataset:
    """An image of one frame may hold its position in the shared groups."""
    if "PlanePositionSequence" in group:
        return group
    copied = shallow_copy(group)
    copied["PlanePositionSequence"] = shared["PlanePositionSequence"]
    return copied


def frame_position_mm(frame: SourceFrame) -> list[float]:
    """Image Position (Patient) of a frame in LPS mm, as its own instance says it."""
    header = frame.instance.header
    if frame.frame_number is None:
        return [float(value) for value in header.ImagePositionPatient]
    for group in (
        header.PerFrameFunctionalGroupsSequence[frame.frame_number - 1],
        header.SharedFunctionalGroupsSequence[0],
    ):
        if "PlanePositionSequence" in group:
            return [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
    raise PermanentError(f"instance {frame.instance.sop_instance_uid}: frame without a position")
