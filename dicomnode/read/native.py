"""Frames in native form: their samples are read as they lie in the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicomnode.elements import Unsure
from dicomnode.read.frames import FrameHeader

SAMPLE_BYTES = 2


@dataclass(frozen=True)
class NativeFrame:
    """Where the samples of a frame lie, 16 bits each in little endian."""

    path: Path
    file_bytes: int
    """The pixel data end the file; anything else is for pydicom to judge."""
    start: int

    def read_into(self, samples: npt.NDArray[np.uint16]) -> None:
        """Fill `samples` (row, column); raises Unsure where they do not come whole."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            as_expected = os.fstat(file).st_size == self.file_bytes
            if (
                not as_expected
                or os.preadv(file, [samples.view(np.uint8).data], self.start) != samples.nbytes
            ):
                raise Unsure
        finally:
            os.close(file)


def native_frames(headers: Sequence[FrameHeader], shape: tuple[int, int, int]) -> list[NativeFrame] | None:
    """The frames of one instance; None where its pixel data are not native, or not as long as they say."""
    instance = headers[0].frame.instance
    pixels = instance.stored_header.pixels
    frame_bytes = shape[1] * shape[2] * SAMPLE_BYTES
    if pixels is None or pixels.length_bytes != frame_bytes * (headers[0].number("NumberOfFrames") or 1.0):
        return None
    return [
        NativeFrame(
            instance.path,
            file_bytes=pixels.start + pixels.length_bytes,
            start=pixels.start + ((header.frame.frame_number or 1) - 1) * frame_bytes,
        )
        for header in headers
    ]
