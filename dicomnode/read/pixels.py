"""Stored pixels to real-world values (Modality LUT, DICOM PS3.3 section C.11.1), slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader
from dicomnode.read.stored import reason_of, stored_frames
from inference.volume import IntensityUnit, Voxels

GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
LARGEST_VOLUME_VOXELS = 2**31
"""4 GiB as int16: 2048 slices of 1024 x 1024. Larger numbers come from broken headers."""
LOWEST_CT_NUMBER_HU = -1024
"""What padding around a CT becomes where it lies lower: the lowest value of ordinary 12-bit CT."""


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


def intensity_unit(headers: Sequence[FrameHeader]) -> IntensityUnit:
    """HU for CT with a rescale whose type is absent or names Hounsfield units, else arbitrary."""
    return "HU" if all(_is_hounsfield(header) for header in headers) else "arbitrary"


def _is_hounsfield(header: FrameHeader) -> bool:
    if header.get("Modality") != "CT" or header.get("RescaleIntercept") is None:
        return False
    kind = str(header.get("RescaleType") or "HU").strip().upper()
    return kind in ("HU", "HU_MOD") or kind.startswith(("HOUNSFIELD", "HOUNDSFIELD"))  # GE writes the latter


def read_voxels(headers: Sequence[FrameHeader]) -> Voxels:
    """Real-world values (slice, row, column) of the frames in the given order.

    int16 when every value is exact in it, else float32. Where a CT declares padding below -1024 HU
    (GE writes -2000 stored), values below -1024 HU become -1024 HU; otherwise all values are kept.
    Raises UnreadableSeries when pixel data are missing, cut off or cannot be decoded.
    """
    shape = volume_shape(headers)
    voxels: Voxels | None = None
    hounsfield = intensity_unit(headers) == "HU"
    for index, (header, stored, dataset) in enumerate(stored_frames(headers)):
        check_size(header, stored, shape)
        values = _real_world(header, stored, dataset)
        if hounsfield:
            values = _without_padding(header, stored, values)
        if voxels is None:
            voxels = np.empty(shape, np.int16)
        if voxels.dtype == np.int16 and not _fits_int16(values):
            voxels = voxels.astype(np.float32)
        voxels[index] = values
    assert voxels is not None
    return voxels


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


def _real_world(header: FrameHeader, stored: Voxels, dataset: Dataset) -> npt.NDArray[Any]:
    """Modality LUT: int64 where slope and intercept are whole numbers, else float64."""
    if header.get("ModalityLUTSequence"):
        try:
            return np.asarray(apply_modality_lut(stored, dataset)).astype(np.int64)
        except Exception as error:
            raise UnreadableSeries(
                f"{header.name}: ModalityLUTSequence cannot be applied ({reason_of(error)}); "
                "the header must be corrected at its source"
            ) from error
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept") or 0.0
    slope = 1.0 if slope is None else slope
    if slope == 0:
        raise UnreadableSeries(
            f"{header.name}: RescaleSlope is 0, so every value would be the same; send the original"
        )
    whole = slope.is_integer() and intercept.is_integer() and max(abs(slope), abs(intercept)) < 2**31
    if whole and np.issubdtype(stored.dtype, np.integer):
        return stored.astype(np.int64) * int(slope) + int(intercept)
    values = stored.astype(np.float64) * slope + intercept
    if not np.isfinite(values).all() or np.abs(values).max() > np.finfo(np.float32).max:
        raise UnreadableSeries(f"{header.name} has values that are not finite numbers; send the original")
    return values


def _fits_int16(values: npt.NDArray[Any]) -> bool:
    limits = np.iinfo(np.int16)
    return bool(values.dtype == np.int64 and values.min() >= limits.min and values.max() <= limits.max)


def _without_padding(header: FrameHeader, stored: Voxels, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """CT values with what PixelPaddingValue declares to be no image (C.7.5.1.1.2) raised to -1024 HU.

    Where padding lies below -1024 HU everything below goes with it: lossy compression blurs it.
    """
    padding = header.number("PixelPaddingValue")
    if padding is None:
        return values
    slope = header.number("RescaleSlope")
    padding_hu = _as_stored(padding, stored) * (1.0 if slope is None else slope)
    padding_hu += header.number("RescaleIntercept") or 0.0
    return np.maximum(values, LOWEST_CT_NUMBER_HU) if padding_hu < LOWEST_CT_NUMBER_HU else values


def _as_stored(value: float, stored: Voxels) -> float:
    """The value in the range of the pixels: writers mix up its signed and unsigned form."""
    if stored.dtype.kind == "i" and value > np.iinfo(stored.dtype).max:
        return value - 2.0 ** (8 * stored.dtype.itemsize)
    if stored.dtype.kind == "u" and value < 0:
        return value + 2.0 ** (8 * stored.dtype.itemsize)
    return value
