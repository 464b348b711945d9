"""Where the frames of encapsulated pixel data lie in a file (PS3.5 section A.4), without reading them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from dicomnode.elements import ITEM, SEQUENCE_END, PixelPlace

PIXEL_DATA = tuple(b"\xe0\x7f\x10\x00%b\x00\x00\xff\xff\xff\xff" % vr for vr in (b"OB", b"OW"))
"""Tag, VR and undefined length of pixel data in fragments. OW is wrong, and common."""
PIXEL_HEADER_BYTES = 12
TRAILING_PADDING = b"\xfc\xff\xfc\xffOB\x00\x00"
"""Tag and VR of the one element that may follow."""

Fragments = tuple[PixelPlace, ...]


def frames_in_fragments(path: Path, start: int, frame_count: int) -> tuple[Fragments, ...] | None:
    """The fragments of each frame; `start` is where the element Pixel Data begins.

    None where it is not plain which fragment belongs to which frame, or where something follows.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        items = _items(file, start, os.fstat(file).st_size)
        if items is None or len(items) < 2:
            return None
        table, *fragments = items
        offsets = os.pread(file, table.length_bytes, table.start)
    finally:
        os.close(file)
    frames = _by_frame(fragments, frame_count)
    return frames if frames is not None and _agree(offsets, frames) else None


def _items(file: int, start: int, end: int) -> list[PixelPlace] | None:
    """The offset table and all fragments; None unless they, and perhaps padding, fill the file to its end."""
    if os.pread(file, PIXEL_HEADER_BYTES, start) not in PIXEL_DATA:
        return None
    items: list[PixelPlace] = []
    at = start + PIXEL_HEADER_BYTES
    while at + 8 <= end:
        group, number, length_bytes = struct.unpack("<HHI", os.pread(file, 8, at))
        tag, at = group << 16 | number, at + 8
        if tag == SEQUENCE_END:
            return items if length_bytes == 0 and _is_end(file, at, end) else None
        if tag != ITEM or length_bytes > end - at:
            return None
        items.append(PixelPlace(at, length_bytes))
        at += length_bytes
    return None


def _is_end(file: int, at: int, end: int) -> bool:
    padding = TRAILING_PADDING + struct.pack("<I", max(0, end - at - PIXEL_HEADER_BYTES))
    return at == end or os.pread(file, PIXEL_HEADER_BYTES, at) == padding


def _by_frame(fragments: list[PixelPlace], frame_count: int) -> tuple[Fragments, ...] | None:
    if frame_count == 1:
        return (tuple(fragments),)
    return tuple((fragment,) for fragment in fragments) if len(fragments) == frame_count else None


def _agree(offsets: bytes, frames: tuple[Fragments, ...]) -> bool:
    """Whether the Basic Offset Table is empty, or says the same."""
    first = frames[0][0].start
    return not offsets or offsets == struct.pack(f"<{len(frames)}I", *(f[0].start - first for f in frames))


def read_fragments(path: Path, fragments: Fragments) -> bytes:
    """The bytes of one frame, fewer where the file is shorter by now."""
    file = os.open(path, os.O_RDONLY)
    try:
        return b"".join(os.pread(file, place.length_bytes, place.start) for place in fragments)
    finally:
        os.close(file)
