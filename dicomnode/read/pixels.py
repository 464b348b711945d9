"""The pixels of a stack of frames as one array of real-world values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader
from dicomnode.read.room import Allocate
from dicomnode.read.stored import check_high_bit, stored_frames
from dicomnode.read.straight import read_straight
from dicomnode.read.values import intensity_unit, real_world
from inference.volume import Voxels

GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
LARGEST_VOLUME_VOXELS = 2**31
"""4 GiB as int16: 2048 slices of 1024 x 1024. Larger numbers come from broken headers."""


def check_greyscale(header: FrameHeader) -> None:
    """Raise UnreadableSeries unless the frame is a greyscale image.

    MONOCHROME1 is taken as it is: it says how to show the values, not what they are (C.7.6.3.1.2).
    """
    if not header.number("Rows") or not header.number("Columns"):
        raise UnreadableSeries(f"{header.name} is not an image (no Rows and Columns); route images only")
    photometric = str(header.get("PhotometricInterpretation") or "absent")
    if photometric not in GREYSCALE or header.number("SamplesPerPixel") != 1:
        raise UnreadableSeries(
            f"{header.name} is a colour image (PhotometricInterpretation {photometric[:16]}); "
            "only greyscale images with real values can be processed"
        )
    if header.number("BitsAllocated") == 1:
        raise UnreadableSeries(
            f"{header.name} is a binary mask (BitsAllocated 1), not an image; route the images instead"
        )
    check_high_bit(header)


def read_voxels(headers: Sequence[FrameHeader], empty: Allocate = np.empty) -> Voxels:
    """Real-world values (slice, row, column) of the frames in the given order.

    int16 when every value is exact in it, else float32. Where a CT declares padding below -1024 HU
    (GE writes -2000 stored), values below -1024 HU become -1024 HU; otherwise all values are kept.
    Raises UnreadableSeries when pixel data are missing, cut off or cannot be decoded.
    """
    shape = volume_shape(headers)
    hounsfield = intensity_unit(headers) == "HU"
    voxels = read_straight(headers, shape, hounsfield, empty)
    return read_one_by_one(headers, shape, hounsfield) if voxels is None else voxels


def read_one_by_one(headers: Sequence[FrameHeader], shape: tuple[int, int, int], hounsfield: bool) -> Voxels:
    """The same for pixels of any kind, one frame after the other."""
    voxels: Voxels = np.empty(shape, np.int16)
    for index, (header, stored, dataset) in enumerate(stored_frames(headers)):
        check_size(header, stored, shape)
        values = real_world(header, stored, dataset, hounsfield)
        if voxels.dtype == np.int16 and not _fits_int16(values):
            voxels = voxels.astype(np.float32)
        voxels[index] = values
    return voxels


def _fits_int16(values: npt.NDArray[Any]) -> bool:
    limits = np.iinfo(np.int16)
    return bool(values.dtype == np.int64 and values.min() >= limits.min and values.max() <= limits.max)


def volume_shape(headers: Sequence[FrameHeader]) -> tuple[int, int, int]:
    """(slices, rows, columns) of frames of one size; raises UnreadableSeries for more than fits."""
    shape = (len(headers), int(headers[0].number("Rows") or 0), int(headers[0].number("Columns") or 0))
    if np.prod(shape, dtype=np.float64) > LARGEST_VOLUME_VOXELS:
        raise UnreadableSeries(
            f"{shape[0]} slices of {shape[1]} x {shape[2]} are more than {LARGEST_VOLUME_VOXELS} voxels; "
            "send a coarser reconstruction"
        )
    return shape


def check_size(header: FrameHeader, pixels: Voxels, shape: tuple[int, int, int]) -> None:
    """Raise UnreadableSeries unless a decoded frame fills its slice of `shape`."""
    if pixels.shape[:2] != shape[1:]:
        raise UnreadableSeries(
            f"{header.name} decodes to {pixels.shape[:2]} pixels, not {shape[1:]}; send it again"
        )
