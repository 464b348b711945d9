"""What a compressed frame says of itself before it is decoded: size, precision, and how it was compressed."""

from __future__ import annotations

import struct
from typing import NamedTuple

JPEG_START = b"\xff\xd8"
JPEG_LS_FRAME = 0xFFF7
LEADING = (*range(0xFFE0, 0xFFF0), 0xFFF8, 0xFFFE)
"""Application data, parameters of JPEG-LS, and comments."""
JPEG_2000_START = b"\xff\x4f\xff\x51"
"""SOC, then SIZ: a codestream that is not wrapped in a file format."""
CODING_STYLE = 0xFF52
REVERSIBLE = 1
MOST_SEGMENTS = 64
"""Before the frame; there are a handful."""


class Codestream(NamedTuple):
    """The head of a frame with one component."""

    rows: int
    columns: int
    bits: int
    signed: bool
    """JPEG-LS knows no sign: there it is False."""


def jpeg_ls_head(stream: bytes) -> Codestream | None:
    """Of a JPEG-LS stream (ISO/IEC 14495-1 annex C); None for anything unusual."""
    at = len(JPEG_START)
    try:
        if not stream.startswith(JPEG_START):
            return None
        for _ in range(MOST_SEGMENTS):
            marker, length = struct.unpack_from(">HH", stream, at)
            if marker == JPEG_LS_FRAME:
                bits, rows, columns, components = struct.unpack_from(">BHHB", stream, at + 4)
                return Codestream(rows, columns, bits, False) if components == 1 else None
            if marker not in LEADING:
                return None
            at += 2 + length
    except struct.error:
        pass
    return None


def jpeg_2000_head(stream: bytes) -> Codestream | None:
    """Of a codestream without loss (ISO/IEC 15444-1 annex A.5 and A.6); None for anything unusual.

    With loss two decoders may round differently.
    """
    if not stream.startswith(JPEG_2000_START):
        return None
    try:
        length, _, columns, rows, left, top = struct.unpack_from(">HHIIII", stream, 4)
        components, precision, across, down = struct.unpack_from(">HBBB", stream, 40)
        coding = 4 + length
        marker, _, _, _, _, _, _, _, _, _, transformation = struct.unpack_from(">HHBBHBBBBBB", stream, coding)
    except struct.error:
        return None
    plain = components == 1 and (left, top, across, down) == (0, 0, 1, 1)
    if not plain or marker != CODING_STYLE or transformation != REVERSIBLE:
        return None
    return Codestream(rows, columns, (precision & 0x7F) + 1, bool(precision & 0x80))
