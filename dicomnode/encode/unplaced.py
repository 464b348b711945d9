"""Segmentations of images that have no place in the patient (ultrasound stills and loops).

highdicom takes only a single frame of them. So it gets stand-ins stacked at places of their own, which
are taken out of the segmentation again. What is left is what viewers were seen to open: one orientation
shared by all frames, pixel measures where the pixel size is known, and the image and frame that each
frame of the segmentation lies on.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage

from dicomnode.encode.context import ResultContext
from dicomnode.encode.sources import patient_stand_in, reference
from dicomnode.encode.whole_source import refer_to_images
from dicomnode.study import SourceVolume
from inference.volume import Volume

ORIENTATION = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
"""Rows run to the right and columns down: the image as it is shown, of which viewers ask a direction."""
NEXT_TO_NOTHING_MM = "0.001"
"""Slice thickness. None is known, but highdicom reads no pixel measures without one and dciodvfy none of 0; a
usual one would let a viewer make a plausible volume out of an area."""
STAND_IN_UID = "2.25."
"""Root of the made-up UIDs, which never leave this module."""


def unplaced_stand_ins(source: SourceVolume) -> list[Dataset]:
    """A single-frame header for each slice, placed in the order in which highdicom writes frames."""
    headers = []
    for index, frame in enumerate(source.frames):
        header = patient_stand_in(frame.instance.header) if index == 0 else Dataset()
        header.update(_made_up(index, frame.instance.header))
        headers.append(header)
    return headers


def _made_up(index: int, source: Dataset) -> Dataset:
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, f"{STAND_IN_UID}{index + 1}"
    header.StudyInstanceUID, header.SeriesInstanceUID = source.StudyInstanceUID, source.SeriesInstanceUID
    header.Modality, header.FrameOfReferenceUID = "US", f"{STAND_IN_UID}0"
    header.Rows, header.Columns = source.Rows, source.Columns
    header.ImagePositionPatient, header.ImageOrientationPatient = [0.0, 0.0, -float(index)], ORIENTATION
    header.PixelSpacing, header.SliceThickness = [1.0, 1.0], 1.0
    return header


def take_out_of_space(seg: Dataset, context: ResultContext) -> None:
    """Remove the made-up places from `seg` and refer to the true images."""
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "DimensionOrganizationType"):
        if keyword in seg:
            delattr(seg, keyword)
    refer_to_images(seg, context.source)
    slices = []
    for group in seg.PerFrameFunctionalGroupsSequence:
        slices.append(_refer_to_frame(group, context.source))
        del group.PlanePositionSequence
    _index_by_time(seg, slices)
    _measure_pixels(seg, slices, context)


def _refer_to_frame(group: Dataset, source: SourceVolume) -> int:
    """Put the true image into the group of a frame; returns its slice."""
    derivation = group.DerivationImageSequence[0]
    stand_in = derivation.SourceImageSequence[0]
    index = int(str(stand_in.ReferencedSOPInstanceUID).removeprefix(STAND_IN_UID)) - 1
    true = reference(source.frames[index])
    image = Dataset()
    image.ReferencedSOPClassUID = true.sop_class_uid
    image.ReferencedSOPInstanceUID = true.sop_instance_uid
    if true.frame_number is not None:
        image.ReferencedFrameNumber = true.frame_number
    image.SpatialLocationsPreserved = stand_in.SpatialLocationsPreserved
    image.PurposeOfReferenceCodeSequence = stand_in.PurposeOfReferenceCodeSequence
    true_derivation = Dataset()
    true_derivation.SourceImageSequence = Sequence([image])
    true_derivation.DerivationCodeSequence = derivation.DerivationCodeSequence
    group.DerivationImageSequence = Sequence([true_derivation])
    return index


def _index_by_time(seg: Dataset, slices: list[int]) -> None:
    """Tell frames apart by Temporal Position Index (0020,9128), where highdicom took their position."""
    dimension = seg.DimensionIndexSequence[1]
    dimension.DimensionIndexPointer = tag_for_keyword("TemporalPositionIndex")
    dimension.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
    dimension.DimensionDescriptionLabel = "Image in the order of the series"
    ranks = {index: rank for rank, index in enumerate(sorted(set(slices)), start=1)}
    for group, index in zip(seg.PerFrameFunctionalGroupsSequence, slices, strict=True):
        content = group.FrameContentSequence[0]
        content.TemporalPositionIndex = index + 1
        content.DimensionIndexValues = [content.DimensionIndexValues[0], ranks[index]]


def _measure_pixels(seg: Dataset, slices: list[int], context: ResultContext) -> None:
    """Pixel measures that hold for all frames, without a pixel size where it is unknown or differs.

    OHIF 3.13.2 goes blank over a segmentation whose shared groups lack them. The images themselves say
    what each pixel measures.
    """
    spacing_mm = common_spacing_mm(context.source.volume, slices)
    measures = Dataset()
    if spacing_mm is not None:
        measures.PixelSpacing = [f"{value:.10g}" for value in spacing_mm]
    measures.SliceThickness = NEXT_TO_NOTHING_MM
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = Sequence([measures])


def common_spacing_mm(volume: Volume, slices: Iterable[int]) -> tuple[float, float] | None:
    """Distance between rows and between columns in these slices, None where unknown or different."""
    spacings_mm = {volume.pixel_spacing_at(index) for index in slices}
    return spacings_mm.pop() if len(spacings_mm) == 1 else None
