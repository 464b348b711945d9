"""Reads a SEG without highdicom: its frames, their places, their bits (PS3.5 8.1.1, PS3.3 C.8.20).

Our own, to be checked before they leave, and those of other makers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SegmentFrame:
    """One frame of a segmentation. Position and directions are LPS; lengths in mm.

    Images without a place in the patient have no position, and perhaps no spacing.
    """

    number: int
    segment_number: int
    position_mm: Vector | None
    along_row: Vector
    along_column: Vector
    spacing_mm: Vector | None
    """(between rows, between columns)."""
    source_sop_instance_uid: str
    source_frame_number: int | None
    mask: npt.NDArray[np.bool_]


def read_frames(seg: Dataset) -> Iterator[SegmentFrame]:
    """The frames of a BINARY segmentation, or of a LABELMAP one for each segment that it holds.

    Raises AttributeError, KeyError or ValueError when malformed, fractional or compressed.
    """
    if seg.SegmentationType == "FRACTIONAL" or seg.file_meta.TransferSyntaxUID.is_encapsulated:
        raise ValueError("fractional and compressed segmentations are not read")
    rows, columns, count = int(seg.Rows), int(seg.Columns), int(seg.NumberOfFrames)
    if len(seg.PerFrameFunctionalGroupsSequence) != count:
        raise ValueError(f"{count} frames but {len(seg.PerFrameFunctionalGroupsSequence)} frame descriptions")
    if seg.SegmentationType == "LABELMAP":
        yield from _read_label_map(seg, (count, rows, columns))
        return
    size = rows * columns
    bits = np.frombuffer(seg.PixelData, dtype=np.uint8)
    if len(bits) < (count * size + 7) // 8:
        raise ValueError(f"{len(bits)} bytes of pixel data are too few for {count} frames")
    shared = seg.SharedFunctionalGroupsSequence[0]
    for index, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        mask = _unpack(bits, index * size, size).reshape(rows, columns)
        segment = _macro("SegmentIdentificationSequence", group, shared)
        yield _frame(index + 1, group, shared, int(segment.ReferencedSegmentNumber), mask)


def _read_label_map(seg: Dataset, shape: tuple[int, int, int]) -> Iterator[SegmentFrame]:
    """Pixel values are segment numbers, and 0 or Pixel Padding Value is background (PS3.3 C.8.20.2)."""
    numbers = np.frombuffer(seg.PixelData, dtype=np.uint8 if seg.BitsAllocated == 8 else np.dtype("<u2"))
    frames = numbers[: math.prod(shape)].reshape(shape)
    background = int(seg.get("PixelPaddingValue", 0))
    shared = seg.SharedFunctionalGroupsSequence[0]
    for index, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        for number in np.unique(frames[index]):
            if number != background:
                yield _frame(index + 1, group, shared, int(number), frames[index] == number)


def _unpack(bits: npt.NDArray[np.uint8], first: int, size: int) -> npt.NDArray[np.bool_]:
    """Bits `first`..`first + size`: frames follow each other without padding, lowest bit first."""
    start = first // 8
    unpacked = np.unpackbits(bits[start : (first + size + 7) // 8], bitorder="little")
    return unpacked[first - 8 * start :][:size].astype(bool)


def _frame(
    number: int, group: Dataset, shared: Dataset, segment_number: int, mask: npt.NDArray[np.bool_]
) -> SegmentFrame:
    orientation = _vector(_macro("PlaneOrientationSequence", group, shared).ImageOrientationPatient)
    image = _source_image(group, shared)
    frame_number = image.get("ReferencedFrameNumber")
    return SegmentFrame(
        number=number,
        segment_number=segment_number,
        position_mm=_optional("PlanePositionSequence", "ImagePositionPatient", group, shared),
        along_row=orientation[:3],
        along_column=orientation[3:],
        spacing_mm=_optional("PixelMeasuresSequence", "PixelSpacing", group, shared),
        source_sop_instance_uid=str(image.get("ReferencedSOPInstanceUID", "")),
        source_frame_number=None if frame_number is None else int(frame_number),
        mask=mask,
    )


def _source_image(group: Dataset, shared: Dataset) -> Dataset:
    """The image that a frame lies on; makers of others leave it out, which PS3.3 C.8.20.2.1 allows."""
    if "DerivationImageSequence" not in group and "DerivationImageSequence" not in shared:
        return Dataset()
    images = _macro("DerivationImageSequence", group, shared).get("SourceImageSequence")
    return images[0] if images else Dataset()


def _macro(keyword: str, group: Dataset, shared: Dataset) -> Dataset:
    found: Dataset = (group if keyword in group else shared)[keyword].value[0]
    return found


def _optional(macro: str, keyword: str, group: Dataset, shared: Dataset) -> Vector | None:
    if macro not in group and macro not in shared:
        return None
    values = _macro(macro, group, shared).get(keyword)
    return None if values is None else _vector(values)


def _vector(values: Any) -> Vector:
    return np.array([float(value) for value in values])
