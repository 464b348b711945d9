"""Pixels of 16 bits straight from files into one volume, with no pydicom in between.

Nearly every CT and MR series is such, in native form or compressed without loss. A slice is brought to
real-world values right behind its reading, while the processor still has it in its cache. The result is what
`read_one_by_one` gives; whatever is unusual is left to it, and so is every refusal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dicomnode.elements import Unsure
from dicomnode.read.compressed import compressed_frames
from dicomnode.read.frames import FrameHeader, one_of_each_kind
from dicomnode.read.native import native_frames
from dicomnode.read.room import Allocate
from dicomnode.read.values import LOWEST_CT_NUMBER_HU, Rescale, has_deep_padding, rescale_of
from inference.volume import Voxels

SAMPLE_BITS = 16
INT16 = np.iinfo(np.int16)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Pace:
    """How many threads share the frames, and how many neighbours one of them takes at once."""

    most_threads: int
    longest_run: int


READING = Pace(most_threads=4, longest_run=16)
"""More threads would only wait for memory. Fresh memory comes in large pages: with runs of frames, threads
seldom wait for the same page."""
DECODING = Pace(most_threads=16, longest_run=1)
"""A frame takes so long that a run at the end would leave the other threads idle."""


class StoredFrame(Protocol):
    """One frame in a file."""

    def read_into(self, samples: npt.NDArray[np.uint16]) -> None:
        """Fill `samples` (row, column) with the stored bits; raises Unsure where they do not come whole."""


@dataclass(frozen=True)
class Meaning:
    """What makes values of stored samples."""

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


@dataclass(frozen=True)
class StraightFrame:
    """A frame in a file, and what its samples mean."""

    stored: StoredFrame
    meaning: Meaning


def read_straight(
    headers: Sequence[FrameHeader],
    shape: tuple[int, int, int],
    hounsfield: bool,
    empty: Allocate = np.empty,
) -> Voxels | None:
    """Values (slice, row, column) of all frames, int16 where they fit, else float32.

    None where one frame is not as simple as this takes, or did not come whole.
    """
    try:
        frames, pace = _plain_frames(headers, shape, hounsfield)
        voxels = None
        if all(frame.meaning.rescale.whole for frame in frames):
            voxels = _read_all(frames, empty(shape, np.int16), _fill_int16, pace)
        if voxels is None:
            voxels = _read_all(frames, empty(shape, np.float32), _fill_float32, pace)
        return voxels
    except Unsure:
        return None


def _plain_frames(
    headers: Sequence[FrameHeader], shape: tuple[int, int, int], hounsfield: bool
) -> tuple[list[StraightFrame], Pace]:
    """The frames, and how they are read best; raises Unsure."""
    frames: list[StraightFrame] = []
    pace = READING
    kinds = one_of_each_kind(headers)
    if not all(_is_plain(header, shape) for header in kinds):
        raise Unsure
    meanings = {header.description_of_samples: _meaning(header, hounsfield) for header in kinds}
    for _, together in groupby(headers, key=lambda header: header.frame.instance):
        of_instance = list(together)
        stored: Sequence[StoredFrame] | None = native_frames(of_instance, shape)
        if stored is None:
            stored, pace = compressed_frames(of_instance, shape), DECODING
        frames += [
            StraightFrame(frame, meanings[header.description_of_samples])
            for header, frame in zip(of_instance, stored, strict=True)
        ]
    return frames, pace


def _is_plain(header: FrameHeader, shape: tuple[int, int, int]) -> bool:
    return (
        header.number("BitsAllocated") == SAMPLE_BITS
        and header.number("BitsStored") in range(1, SAMPLE_BITS + 1)
        and header.number("PixelRepresentation") in (0, 1)
        and (header.number("Rows"), header.number("Columns")) == shape[1:]
        and not header.get("ModalityLUTSequence")
        and header.number("RescaleSlope") != 0
    )


def _meaning(header: FrameHeader, hounsfield: bool) -> Meaning:
    dtype = np.dtype(np.int16 if header.number("PixelRepresentation") else np.uint16)
    return Meaning(
        dtype,
        bits_stored=int(header.number("BitsStored") or 0),
        rescale=rescale_of(header),
        lowest=LOWEST_CT_NUMBER_HU if hounsfield and has_deep_padding(header, dtype) else None,
    )


def _read_all(
    frames: Sequence[StraightFrame],
    voxels: Voxels,
    fill: Callable[[StraightFrame, Voxels], bool],
    pace: Pace,
) -> Voxels | None:
    """`voxels`, filled by a few threads; None where values do not fit. Raises Unsure."""
    threads = min(pace.most_threads, os.cpu_count() or 1)
    count = min(pace.longest_run, -(-len(frames) // threads))

    def fill_run(first: int) -> bool:
        run = slice(first, first + count)
        return all(map(fill, frames[run], voxels[run]))

    with ThreadPoolExecutor(threads) as pool:
        return voxels if all(list(pool.map(fill_run, range(0, len(frames), count)))) else None


def _read_stored(frame: StraightFrame, samples: Voxels) -> Voxels:
    """What is stored, read into the memory of `samples` (16 bits each). Raises Unsure."""
    frame.stored.read_into(samples.view(np.uint16))
    stored = samples.view(frame.meaning.dtype)
    unused = SAMPLE_BITS - frame.meaning.bits_stored
    if unused:  # what the other bits hold means nothing (PS3.5 section 8.1.1)
        np.left_shift(stored, unused, out=stored)
        np.right_shift(stored, unused, out=stored)
    return stored


def _fill_int16(frame: StraightFrame, image: npt.NDArray[np.int16]) -> bool:
    """Values of one frame in the very memory that it was read into; False where they do not fit."""
    stored, meaning = _read_stored(frame, image), frame.meaning
    line = meaning.rescale
    if not _fits(meaning.limits, line) and not _fits((int(stored.min()), int(stored.max())), line):
        return _fill_clipped(meaning, image)
    if line.slope != 1:  # what fits in the end is right even where it overflows on the way
        np.multiply(image, _wrapped(line.slope), out=image)
    if line.intercept != 0:
        np.add(image, _wrapped(line.intercept), out=image)
    if meaning.lowest is not None:
        np.maximum(image, np.int16(meaning.lowest), out=image)
    return True


def _fill_clipped(meaning: Meaning, image: npt.NDArray[np.int16]) -> bool:
    """For values that may fit once padding is raised to the lowest one."""
    values = meaning.rescale.apply(image.view(meaning.dtype))
    if meaning.lowest is not None:
        np.maximum(values, meaning.lowest, out=values)
    image[...] = values
    return bool(values.min() >= INT16.min and values.max() <= INT16.max)


def _fits(stored: tuple[int, int], line: Rescale) -> bool:
    ends = [number * int(line.slope) + int(line.intercept) for number in stored]
    return min(ends) >= INT16.min and max(ends) <= INT16.max


def _wrapped(number: float) -> np.int16:
    return np.int16((int(number) - INT16.min) % 2**SAMPLE_BITS + INT16.min)


def _fill_float32(frame: StraightFrame, image: npt.NDArray[np.float32]) -> bool:
    stored = _read_stored(frame, np.empty(image.shape, np.uint16))
    meaning = frame.meaning
    values = stored * np.float64(meaning.rescale.slope)
    values += meaning.rescale.intercept
    if not np.abs(values).max() <= LARGEST_FLOAT32:
        return False
    image[...] = values if meaning.lowest is None else np.maximum(values, meaning.lowest)
    return True
