"""Defects of segmentations."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset

from tests.dicomnode.encode.defects import Defect, Modality


def move_by_40_mm(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(v) + d for v, d in zip(position.ImagePositionPatient, (0, 0, 40), strict=True)
        ]


def move_one_frame_to_the_next_slice(seg: Dataset) -> None:
    first, second = seg.PerFrameFunctionalGroupsSequence[:2]
    first.PlanePositionSequence = second.PlanePositionSequence


def move_one_frame_by_a_hundredth_mm(seg: Dataset) -> None:
    position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(v) + 0.01 for v in position.ImagePositionPatient]


def mirror(seg: Dataset) -> None:
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-float(v) for v in orientation.ImageOrientationPatient[:3]] + list(
        orientation.ImageOrientationPatient[3:]
    )


def swap_spacing(seg: Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(reversed(measures.PixelSpacing))


def flip_one_bit(seg: Dataset) -> None:
    content = bytearray(seg.PixelData)
    content[0] ^= 1
    seg.PixelData = bytes(content)


def cut_pixels(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[: len(seg.PixelData) // 2]


def wrong_segment(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


def foreign_source(seg: Dataset) -> None:
    image = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3"


def drop_tracking_uid(seg: Dataset) -> None:
    del seg.SegmentSequence[1].TrackingUID


def renumber_segments(seg: Dataset) -> None:
    seg.SegmentSequence[-1].SegmentNumber = 9


def other_finding(seg: Dataset) -> None:
    seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "4147007"


def other_frame_of_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "1.2.3"


def foreign_referenced_series(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def foreign_referenced_instance(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def lose_frame_descriptions(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence


def transpose_one_frame(seg: Dataset) -> None:
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    cosines = list(orientation.ImageOrientationPatient)
    orientation.ImageOrientationPatient = [*cosines[3:], *cosines[:3]]


def move_by_half_a_pixel(seg: Dataset) -> None:
    shared = seg.SharedFunctionalGroupsSequence[0]
    along_row = shared.PlaneOrientationSequence[0].ImageOrientationPatient[:3]
    half = float(shared.PixelMeasuresSequence[0].PixelSpacing[1]) / 2
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(v) + half * float(d) for v, d in zip(position.ImagePositionPatient, along_row, strict=True)
        ]


def swap_the_pixels_of_two_frames(seg: Dataset) -> None:
    """The first and the last frame, which hold different lesions or cuts."""
    groups = seg.PerFrameFunctionalGroupsSequence
    groups[0], groups[-1] = groups[-1], groups[0]


def mirror_the_pixels(seg: Dataset) -> None:
    count, rows, columns = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    size = count * rows * columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[:size]
    turned = bits.reshape(count, rows, columns)[:, :, ::-1]
    seg.PixelData = np.packbits(turned.ravel(), bitorder="little").tobytes()


def empty_the_last_frame(seg: Dataset) -> None:
    seg.PixelData = bytes(len(seg.PixelData))


def one_tracking_uid_for_two_lesions(seg: Dataset) -> None:
    seg.SegmentSequence[1].TrackingUID = seg.SegmentSequence[0].TrackingUID


def lose_a_segment(seg: Dataset) -> None:
    seg.SegmentSequence = seg.SegmentSequence[:-1]


def retired_code_of_the_segment(seg: Dataset) -> None:
    code = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    code.CodeValue, code.CodingSchemeDesignator = "M-03010", "SRT"


def other_version_of_the_algorithm(seg: Dataset) -> None:
    seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion = "0.0.1"


def source_frame_that_is_not_there(seg: Dataset) -> None:
    image = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedFrameNumber = 999


def lose_the_model(seg: Dataset) -> None:
    """No Contributing Equipment says which model made it (IHE AI Results)."""
    del seg.ContributingEquipmentSequence


def another_model(seg: Dataset) -> None:
    for item in seg.ContributingEquipmentSequence:
        item.DeviceUID = "1.2.3"


UNPLACED: dict[Modality, str] = {"US": "no place in the patient"}

SEG_DEFECTS: tuple[Defect, ...] = (
    Defect("seg", move_by_40_mm, r"not on a slice", UNPLACED),
    Defect(
        "seg", move_by_half_a_pixel, r"not on a slice|mm from its source", {"US": "no place in the patient"}
    ),
    Defect(
        "seg",
        move_one_frame_to_the_next_slice,
        r"names another source image",
        {"US": "no place in the patient"},
    ),
    Defect(
        "seg",
        move_one_frame_by_a_hundredth_mm,
        r"mm from its source image",
        {"US": "no place in the patient"},
    ),
    Defect("seg", mirror, r"columns run|has a place in the patient"),
    Defect("seg", transpose_one_frame, r"run|has a place in the patient"),
    Defect("seg", mirror_the_pixels, r"in .* voxels|overlaps"),
    Defect("seg", swap_the_pixels_of_two_frames, r"in .* voxels|overlaps|segment"),
    Defect("seg", swap_spacing, r"off the source grid|pixel spacing"),
    Defect("seg", flip_one_bit, r"in 1 voxels, first at \(slice, row, column\)"),
    Defect("seg", empty_the_last_frame, r"in .* voxels"),
    Defect("seg", cut_pixels, r"cannot be read back"),
    Defect("seg", wrong_segment, r"SEG"),
    Defect("seg", lose_a_segment, r"describes segments"),
    Defect("seg", foreign_source, r"names another source image|no slice"),
    Defect("seg", source_frame_that_is_not_there, r"names another source image|no slice"),
    Defect("seg", drop_tracking_uid, r"segment 2: tracking UID missing"),
    Defect("seg", one_tracking_uid_for_two_lesions, r"segment 2: tracking UID"),
    Defect("seg", renumber_segments, r"describes segments"),
    Defect("seg", other_finding, r"segment 1: .* not the code of the model card"),
    Defect("seg", retired_code_of_the_segment, r"segment 1: .* not the code of the model card"),
    Defect("seg", other_version_of_the_algorithm, r"segment 1: algorithm"),
    Defect("seg", other_frame_of_reference, r"another frame of reference"),
    Defect("seg", foreign_referenced_series, r"foreign series"),
    Defect("seg", foreign_referenced_instance, r"foreign instance"),
    Defect("seg", lose_frame_descriptions, r"cannot be read back"),
    Defect("seg", lose_the_model, r"model"),
    Defect("seg", another_model, r"model"),
)
