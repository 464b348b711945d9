"""The stored pixels of frames, decoded from whatever transfer syntax they came in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import JPEGLSLossless, JPEGLSNearLossless

from dicomnode.errors import UnreadableSeries
from dicomnode.read.frames import FrameHeader, frame_count, name_instance
from dicomnode.study import Instance
from inference.volume import Voxels

DECODERS = ("pyjpegls", "pylibjpeg", "pydicom", "pillow")
"""pydicom's plugins by preference. Not gdcm: it ends the whole process on some broken JPEG files and
decodes other ones to noise without a word."""

JPEG_LS = (JPEGLSLossless, JPEGLSNearLossless)
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
"""Neither can lie within the samples (ISO/IEC 14495-1 annex A.1)."""
LARGEST_FRAME_SAMPLES = 10**8
"""10,000 x 10,000: more than any radiograph. Each sample needs up to 16 bytes on the way to its value."""


def check_high_bit(header: FrameHeader) -> None:
    """Raise UnreadableSeries unless the stored bits are the lowest ones (PS3.5 section 8.1.1).

    Nothing that decodes pixels looks at HighBit.
    """
    high_bit, bits_stored = header.number("HighBit"), header.number("BitsStored")
    if high_bit is not None and bits_stored is not None and high_bit != bits_stored - 1:
        raise UnreadableSeries(
            f"{header.name}: HighBit is {high_bit:g} for {bits_stored:g} BitsStored instead of "
            f"{bits_stored - 1:g}, so its values are not where they should be; send it in the usual form"
        )


def stored_frames(headers: Sequence[FrameHeader]) -> Iterator[tuple[FrameHeader, Voxels, Dataset]]:
    """Each frame with its pixels (row, column) or, in colour, (row, column, RGB), and its data set.

    Neighbouring frames of one instance are decoded from one reading of its file. Raises
    UnreadableSeries when pixel data are missing, cut off or cannot be decoded.
    """
    for instance, together in groupby(headers, key=lambda header: header.frame.instance):
        frames = list(together)
        _check_claims(frames[0])
        dataset = _load(instance)
        indices = [(header.frame.frame_number or 1) - 1 for header in frames]
        decoded = iter_pixels(dataset, indices=indices, decoding_plugin=_decoder(dataset))
        for header, index in zip(frames, indices, strict=True):
            _check_end(header, index, dataset)
            yield header, _next(decoded, header.name, dataset), dataset


def _check_claims(header: FrameHeader) -> None:
    """Before anything is decoded: decoders ask for as much memory as the header claims."""
    samples = (header.number(keyword) or 0.0 for keyword in ("Rows", "Columns", "SamplesPerPixel"))
    if math.prod(samples) > LARGEST_FRAME_SAMPLES:
        raise UnreadableSeries(
            f"{header.name} claims more than {LARGEST_FRAME_SAMPLES} samples in one frame; "
            "send a coarser image"
        )


def _check_end(header: FrameHeader, index: int, dataset: Dataset) -> None:
    """Raise UnreadableSeries for a cut JPEG-LS frame: CharLS may look for its end for seconds."""
    if getattr(dataset.file_meta, "TransferSyntaxUID", None) not in JPEG_LS:
        return
    try:
        frame = get_frame(
            dataset.PixelData,
            index,
            number_of_frames=frame_count(dataset, header.name),
            extended_offsets=_extended_offsets(dataset),
        )
    except Exception:  # decoding finds the same, and says what is wrong
        return
    if frame.rfind(END_OF_IMAGE) <= frame.rfind(START_OF_SCAN):
        raise UnreadableSeries(
            f"pixel data of {header.name} are cut off (its JPEG-LS frame has no end marker); send it again"
        )


def _extended_offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    """Starts and lengths of all frames, where the data set has them and pydicom goes by them."""
    starts, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    return (starts, lengths) if starts and lengths and len(starts) == len(lengths) else None


def _load(instance: Instance) -> Dataset:
    """The data set with pixels. An error of the disk is not one of the input and passes through."""
    name = name_instance(instance)
    try:
        dataset = instance.load()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableSeries(f"{name} cannot be read ({reason_of(error)}); send it again") from error
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
            f"{reason_of(error)}); send it again, or uncompressed"
        ) from error


def reason_of(error: BaseException) -> str:
    """The kind of an error and the first line of its words."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__} {first_line[:200]}".strip()
