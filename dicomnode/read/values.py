"""Stored pixels to real-world values (Modality LUT, DICOM PS3.3 section C.11.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader, one_of_each_kind
from dicomnode.read.stored import reason_of
from inference.volume import IntensityUnit, Voxels

LOWEST_CT_NUMBER_HU = -1024
"""What padding around a CT becomes where it lies lower: the lowest value of ordinary 12-bit CT."""


def intensity_unit(headers: Sequence[FrameHeader]) -> IntensityUnit:
    """HU for CT with a rescale whose type is absent or names Hounsfield units, else arbitrary."""
    return "HU" if all(map(_is_hounsfield, one_of_each_kind(headers))) else "arbitrary"


def _is_hounsfield(header: FrameHeader) -> bool:
    if header.get("Modality") != "CT" or header.number("RescaleIntercept") is None:
        return False
    kind = str(header.get("RescaleType") or "HU").strip().upper()
    return kind in ("HU", "HU_MOD") or kind.startswith(("HOUNSFIELD", "HOUNDSFIELD"))  # GE writes the latter


@dataclass(frozen=True)
class Rescale:
    """A straight line from stored pixels to values."""

    slope: float
    intercept: float

    @property
    def whole(self) -> bool:
        """Whether whole numbers stay whole numbers, exactly."""
        both = self.slope, self.intercept
        return all(number.is_integer() and abs(number) < 2**31 for number in both)

    def apply(self, stored: Voxels) -> npt.NDArray[Any]:
        """int64 where pixels and line are whole numbers, else float64."""
        if self.whole and np.issubdtype(stored.dtype, np.integer):
            return stored.astype(np.int64) * int(self.slope) + int(self.intercept)
        return stored.astype(np.float64) * self.slope + self.intercept


def rescale_of(header: FrameHeader) -> Rescale:
    """RescaleSlope and RescaleIntercept, 1 and 0 where absent; raises UnreadableSeries for a slope of 0."""
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept") or 0.0
    if slope == 0:
        raise UnreadableSeries(
            f"{header.name}: RescaleSlope is 0, so every value would be the same; send the original"
        )
    return Rescale(1.0 if slope is None else slope, intercept)


def real_world(header: FrameHeader, stored: Voxels, dataset: Dataset, hounsfield: bool) -> npt.NDArray[Any]:
    """Values of one frame as int64 or float64, for a CT without its padding.

    Raises UnreadableSeries where they are no finite numbers, or the header does not say how to make them.
    """
    if header.get("ModalityLUTSequence"):
        values = _looked_up(header, stored, dataset)
    else:
        values = rescale_of(header).apply(stored)
        finite = values.dtype == np.int64 or bool(np.isfinite(values).all())
        if not finite or np.abs(values).max() > np.finfo(np.float32).max:
            raise UnreadableSeries(f"{header.name} has values that are not finite numbers; send the original")
    if hounsfield and has_deep_padding(header, stored.dtype):
        np.maximum(values, LOWEST_CT_NUMBER_HU, out=values)
    return values


def _looked_up(header: FrameHeader, stored: Voxels, dataset: Dataset) -> npt.NDArray[Any]:
    try:
        return np.asarray(apply_modality_lut(stored, dataset)).astype(np.int64)
    except Exception as error:
        raise UnreadableSeries(
            f"{header.name}: ModalityLUTSequence cannot be applied ({reason_of(error)}); "
            "the header must be corrected at its source"
        ) from error


def has_deep_padding(header: FrameHeader, dtype: np.dtype[Any]) -> bool:
    """Whether PixelPaddingValue declares to be no image (C.7.5.1.1.2) what lies below -1024 HU.

    Then everything below -1024 HU goes with it: lossy compression blurs it.
    """
    padding = header.number("PixelPaddingValue")
    if padding is None:
        return False
    slope = header.number("RescaleSlope")
    padding_hu = _as_stored(padding, dtype) * (1.0 if slope is None else slope)
    return padding_hu + (header.number("RescaleIntercept") or 0.0) < LOWEST_CT_NUMBER_HU


def _as_stored(value: float, dtype: np.dtype[Any]) -> float:
    """The value in the range of the pixels: writers mix up its signed and unsigned form."""
    if dtype.kind == "i" and value > np.iinfo(dtype).max:
        return value - 2.0 ** (8 * dtype.itemsize)
    if dtype.kind == "u" and value < 0:
        return value + 2.0 ** (8 * dtype.itemsize)
    return value
