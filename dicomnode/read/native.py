"""Native pixels of 16 bits straight from files into one volume, with no pydicom in between.

Nearly every CT and MR series is such. A slice is brought to real-world values right behind its reading, while
the processor still has it in its cache. The result is what `read_one_by_one` gives; whatever is unusual is
left to it, and so is every refusal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.read.frames import FrameHeader
from dicomnode.read.values import LOWEST_CT_NUMBER_HU, Rescale, has_deep_padding, rescale_of
from inference.volume import Voxels

SAMPLE_BITS, SAMPLE_BYTES = 16, 2
INT16 = np.iinfo(np.int16)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
READERS = min(4, os.cpu_count() or 1)
"""Threads; more than a few only wait for memory."""


@dataclass(frozen=True)
class NativeFrame:
    """Where the samples of a frame lie, and what makes values of them."""

    path: Path
    file_bytes: int
    """The pixel data end the file; anything else is for pydicom to judge."""
    start: int
    dtype: np.dtype[Any]
    bits_stored: int
    rescale: Rescale
    lowest: int | None
    """Lower values become this one."""

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest number that the stored bits can hold."""
        if self.dtype.kind == "u":
            return 0, 2**self.bits_stored - 1
        return -(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1


def read_native(
    headers: Sequence[FrameHeader], shape: tuple[int, int, int], hounsfield: bool
) -> Voxels | None:
    """Values (slice, row, column) of all frames, int16 where they fit, else float32.

    None where one frame is not as simple as this takes, or did not come whole.
    """
    frames = []
    for header in headers:
        frame = _native_frame(header, shape, hounsfield)
        if frame is None:
            return None
        frames.append(frame)
    voxels = None
    if all(frame.rescale.whole for frame in frames):
        voxels = _read_all(frames, np.empty(shape, np.int16), _fill_int16)
    return _read_all(frames, np.empty(shape, np.float32), _fill_float32) if voxels is None else voxels


def _read_all(frames: Sequence[NativeFrame], voxels: Voxels, fill: Any) -> Voxels | None:
    """`voxels`, filled by a few threads; None where one frame could not be."""
    count = -(-len(frames) // READERS)

    def fill_run(first: int) -> bool:
        """Neighbours, whose fresh memory comes in large pages: no two threads wait for the same one."""
        run = slice(first, first + count)
        return all(map(fill, frames[run], voxels[run]))

    with ThreadPoolExecutor(READERS) as pool:
        return voxels if all(list(pool.map(fill_run, range(0, len(frames), count)))) else None


def _native_frame(header: FrameHeader, shape: tuple[int, int, int], hounsfield: bool) -> NativeFrame | None:
    instance = header.frame.instance
    pixels = instance.stored_header.pixels
    bits_stored, signed = header.number("BitsStored") or 0.0, header.number("PixelRepresentation")
    if (
        pixels is None
        or header.number("BitsAllocated") != SAMPLE_BITS
        or bits_stored not in range(1, SAMPLE_BITS + 1)
        or signed not in (0, 1)
        or (header.number("Rows"), header.number("Columns")) != shape[1:]
        or header.get("ModalityLUTSequence")
        or header.number("RescaleSlope") == 0
    ):
        return None
    frame_bytes = shape[1] * shape[2] * SAMPLE_BYTES
    if pixels.length_bytes != frame_bytes * (header.number("NumberOfFrames") or 1.0):
        return None
    dtype = np.dtype(np.int16 if signed else np.uint16)
    return NativeFrame(
        path=instance.path,
        file_bytes=pixels.start + pixels.length_bytes,
        start=pixels.start + ((header.frame.frame_number or 1) - 1) * frame_bytes,
        dtype=dtype,
        bits_stored=int(bits_stored),
        rescale=rescale_of(header),
        lowest=LOWEST_CT_NUMBER_HU if hounsfield and has_deep_padding(header, dtype) else None,
    )


def _read_stored(frame: NativeFrame, samples: Voxels) -> bool:
    """Fill `samples` (16 bits each) with what is stored; whether it came whole."""
    with frame.path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != frame.file_bytes:
            return False
        if os.preadv(file.fileno(), [samples.view(np.uint8).data], frame.start) != samples.nbytes:
            return False
    stored = samples.view(frame.dtype)
    if frame.bits_stored < SAMPLE_BITS:  # what the other bits hold means nothing (PS3.5 section 8.1.1)
        unused = SAMPLE_BITS - frame.bits_stored
        np.left_shift(stored, unused, out=stored)
        np.right_shift(stored, unused, out=stored)
    return True


def _fill_int16(frame: NativeFrame, image: npt.NDArray[np.int16]) -> bool:
    """Values of one frame in the very memory that it was read into; False where they do not fit."""
    if not _read_stored(frame, image):
        return False
    stored, line = image.view(frame.dtype), frame.rescale
    if not _fits(frame.limits, line) and not _fits((int(stored.min()), int(stored.max())), line):
        return _fill_clipped(frame, image)
    if line.slope != 1:  # what fits in the end is right even where it overflows on the way
        np.multiply(image, _wrapped(line.slope), out=image)
    if line.intercept != 0:
        np.add(image, _wrapped(line.intercept), out=image)
    if frame.lowest is not None:
        np.maximum(image, np.int16(frame.lowest), out=image)
    return True


def _fill_clipped(frame: NativeFrame, image: npt.NDArray[np.int16]) -> bool:
    """For values that may fit once padding is raised to the lowest one."""
    values = frame.rescale.apply(image.view(frame.dtype))
    if frame.lowest is not None:
        np.maximum(values, frame.lowest, out=values)
    image[...] = values
    return bool(values.min() >= INT16.min and values.max() <= INT16.max)


def _fits(stored: tuple[int, int], line: Rescale) -> bool:
    ends = [number * int(line.slope) + int(line.intercept) for number in stored]
    return min(ends) >= INT16.min and max(ends) <= INT16.max


def _wrapped(number: float) -> np.int16:
    return np.int16((int(number) - INT16.min) % 2**SAMPLE_BITS + INT16.min)


def _fill_float32(frame: NativeFrame, image: npt.NDArray[np.float32]) -> bool:
    samples = np.empty(image.shape, np.uint16)
    if not _read_stored(frame, samples):
        return False
    values = samples.view(frame.dtype) * np.float64(frame.rescale.slope)
    values += frame.rescale.intercept
    if not np.abs(values).max() <= LARGEST_FLOAT32:
        return False
    image[...] = values if frame.lowest is None else np.maximum(values, frame.lowest)
    return True
