"""Stored pixels to real-world values (Modality LUT, DICOM PS3.3 section C.11.1), slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import iter_pixels

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader, name_instance
from dicomnode.study import Instance
from inference.volume import IntensityUnit, Voxels

GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
LARGEST_VOLUME_VOXELS = 2**31
"""4 GiB as int16: 2048 slices of 1024 x 1024. Larger numbers come from broken headers."""
LOWEST_CT_NUMBER_HU = -1024
"""What padding around a CT becomes where it lies lower: the lowest value of ordinary 12-bit CT."""


DECODERS = ("pyjpegls", "pylibjpeg", "pydicom", "pillow")
"""pydicom's plugins by preference. Not gdcm: it ends the whole process on some broken JPEG files and
decodes other ones to noise without a word."""


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
    shape = (len(headers), int(headers[0].number("Rows") or 0), int(headers[0].number("Columns") or 0))
    if np.prod(shape, dtype=np.float64) > LARGEST_VOLUME_VOXELS:
        raise UnreadableSeries(
            f"{shape[0]} slices of {shape[1]} x {shape[2]} are more than {LARGEST_VOLUME_VOXELS} voxels; "
            "send a coarser reconstruction"
        )
    voxels: Voxels | None = None
    hounsfield = intensity_unit(headers) == "HU"
    for index, (header, stored, dataset) in enumerate(_stored_frames(headers)):
        if stored.shape != shape[1:]:
            raise UnreadableSeries(
                f"{header.name} decodes to {stored.shape} pixels, not {shape[1:]}; send it again"
            )
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


def _stored_frames(headers: Sequence[FrameHeader]) -> Iterator[tuple[FrameHeader, Voxels, Dataset]]:
    """Each frame with its decoded pixels. A multi-frame instance is read once."""
    if len(headers) > 1 and headers[0].frame.instance is headers[1].frame.instance:
        instance = headers[0].frame.instance
        dataset = _load(instance)
        indices = [(header.frame.frame_number or 1) - 1 for header in headers]
        decoded = iter_pixels(dataset, indices=indices, decoding_plugin=_decoder(dataset))
        for header in headers:
            yield header, _next(decoded, header.name, dataset), dataset
        return
    for header in headers:
        dataset = _load(header.frame.instance)
        decoded = iter_pixels(dataset, indices=[0], decoding_plugin=_decoder(dataset))
        yield header, _next(decoded, header.name, dataset), dataset


def _load(instance: Instance) -> Dataset:
    """The data set with pixels. An error of the disk is not one of the input and passes through."""
    name = name_instance(instance)
    try:
        dataset = instance.load()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableSeries(f"{name} cannot be read ({_reason(error)}); send it again") from error
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableSeries(
            f"{name} has no pixel data (never sent, or the file is cut off); send it again"
        )
    return dataset


def _decoder(dataset: Dataset) -> str:
    """The preferred plugin for compressed pixels; empty where none is needed, or none is known."""
    try:
        available = get_decoder(dataset.file_meta.TransferSyntaxUID).available_plugins
    except (AttributeError, NotImplementedError):  # decoding says what is wrong
        return ""
    return next((plugin for plugin in DECODERS if plugin in available), "")


def _next(decoded: Iterator[npt.NDArray[Any]], name: str, dataset: Dataset) -> Voxels:
    try:
        return next(decoded)
    except BaseException as error:  # decoders in C and Rust raise what they like, panics included
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        raise UnreadableSeries(
            f"pixel data of {name} cannot be decoded (transfer syntax {getattr(syntax, 'name', 'absent')}: "
            f"{_reason(error)}); send it again, or uncompressed"
        ) from error


def _reason(error: BaseException) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__} {first_line[:200]}".strip()


def _real_world(header: FrameHeader, stored: Voxels, dataset: Dataset) -> npt.NDArray[Any]:
    """Modality LUT: int64 where slope and intercept are whole numbers, else float64."""
    if header.get("ModalityLUTSequence"):
        try:
            return np.asarray(apply_modality_lut(stored, dataset)).astype(np.int64)
        except Exception as error:
            raise UnreadableSeries(
                f"{header.name}: ModalityLUTSequence cannot be applied ({_reason(error)}); "
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
