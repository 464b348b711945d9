"""Frames that are compressed without loss, decoded by libraries that let several threads decode at once.

pydicom's decoders hold the interpreter while they work. Each frame must say of itself what its header says of
it; else, and where a decoder finds a fault, this is for pydicom to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless

from dicomnode.elements import Unsure
from dicomnode.part10 import IndexedHeader
from dicomnode.read.codestreams import Codestream, jpeg_2000_head, jpeg_ls_head
from dicomnode.read.fragments import Fragments, frames_in_fragments, read_fragments
from dicomnode.read.frames import FrameHeader

LARGEST_FRAME_PIXELS = 2**24
"""4096 x 4096. Decoding takes some ten bytes for each, in every thread; larger frames are read one by one."""

ALLOCATED_BITS = 16
EXTENDED_OFFSET_TABLE = 0x7FE00001
END_OF_IMAGE = b"\xff\xd9"
"""Of JPEG-LS and of a JPEG 2000 codestream; a frame of odd length is padded (PS3.5 section A.4)."""

Samples = npt.NDArray[np.uint16]


def _decode_jpeg_ls(stream: bytes, expected: Codestream, samples: Samples) -> Codestream:
    found = _checked(jpeg_ls_head(stream), expected._replace(signed=False))
    imagecodecs.jpegls_decode(stream, out=samples)
    return found


def _decode_jpeg_2000(stream: bytes, expected: Codestream, samples: Samples) -> Codestream:
    found = _checked(jpeg_2000_head(stream), expected)
    own = samples.view(np.int16 if expected.signed else np.uint16)
    imagecodecs.jpeg2k_decode(stream, numthreads=1, out=own)
    return found


def _checked(found: Codestream | None, expected: Codestream) -> Codestream:
    """Many writers compress all bits that are allocated, not only those that are stored."""
    if found is None or found not in (expected, expected._replace(bits=ALLOCATED_BITS)):
        raise Unsure
    return found


def _check_unused_bits(samples: Samples, expected: Codestream) -> None:
    """Raise Unsure where more than the stored bits are in use: decoders differ in what they do with them."""
    lowest, highest = 0, 2**expected.bits - 1
    values: npt.NDArray[np.generic] = samples
    if expected.signed:
        lowest, highest = -(2 ** (expected.bits - 1)), 2 ** (expected.bits - 1) - 1
        values = samples.view(np.int16)
    if values.min() < lowest or values.max() > highest:
        raise Unsure


Decode = Callable[[bytes, Codestream, Samples], Codestream]
DECODERS: dict[str, Decode] = {
    JPEGLSLossless: _decode_jpeg_ls,
    JPEG2000Lossless: _decode_jpeg_2000,
    JPEG2000: _decode_jpeg_2000,
}
"""By transfer syntax. Two more of this library (2026.3.6) are not fit for what strangers send: its decoder of
RLE crashes on broken frames, and its lossless JPEG makes an image of them without a word."""


@dataclass(frozen=True)
class CompressedFrame:
    """Where the bytes of a frame lie, and what they must say of themselves."""

    path: Path
    fragments: Fragments
    expected: Codestream
    decode: Decode

    def read_into(self, samples: Samples) -> None:
        """Fill `samples` (row, column); raises Unsure unless the frame is whole and what its header says."""
        stream = read_fragments(self.path, self.fragments)
        if not stream.endswith((END_OF_IMAGE, END_OF_IMAGE + b"\0")):  # decoders may take long to find out
            raise Unsure
        try:
            found = self.decode(stream, self.expected, samples)
        except Exception as error:  # each decoder has errors of its own; pydicom's says what is wrong
            raise Unsure from error
        if found.bits > self.expected.bits:
            _check_unused_bits(samples, self.expected)


def compressed_frames(headers: Sequence[FrameHeader], shape: tuple[int, int, int]) -> list[CompressedFrame]:
    """The frames of one instance; raises Unsure where none of `DECODERS` takes them, or not plain to find."""
    instance = headers[0].frame.instance
    stored = instance.stored_header
    if not isinstance(stored, IndexedHeader) or shape[1] * shape[2] > LARGEST_FRAME_PIXELS:
        raise Unsure
    decode = DECODERS.get(stored.meta.get("TransferSyntaxUID"))
    if decode is None or stored.values.encoded(EXTENDED_OFFSET_TABLE) is not None:
        raise Unsure
    fragments = frames_in_fragments(
        instance.path, stored.values.found.end, int(headers[0].number("NumberOfFrames") or 1)
    )
    if fragments is None:
        raise Unsure
    bits, signed = headers[0].number("BitsStored") or 0, headers[0].number("PixelRepresentation") == 1
    expected = Codestream(shape[1], shape[2], int(bits), signed)
    return [
        CompressedFrame(instance.path, fragments[(header.frame.frame_number or 1) - 1], expected, decode)
        for header in headers
    ]
