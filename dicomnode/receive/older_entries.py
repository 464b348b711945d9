"""Reads journals of versions before this one, which an upgrade may find full.

Their segments have no first page of their own: entries follow each other from the beginning, all with the
mark of the first one.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dicomnode.receive.entries import Entry, entry_of, on_pages

OLDER_MAGIC = b"dcmjrnl1"
HEAD = struct.Struct("<8s16sLLQ")
"""OLDER_MAGIC, mark, CRC-32 and length of the particulars, length of the file."""


def older_entries(path: Path) -> Iterator[Entry]:
    """Every whole entry of such a segment; after a loss of power the last one may be none."""
    with path.open("rb") as segment:
        mark = None
        while (found := _next_entry(segment, mark)) is not None:
            entry, mark = found
            yield entry


def _next_entry(segment: BinaryIO, mark: bytes | None) -> tuple[Entry, bytes] | None:
    segment.seek(on_pages(segment.tell()))
    head = segment.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    size_bytes = os.fstat(segment.fileno()).st_size
    magic, found, checksum, told_bytes, file_bytes = HEAD.unpack(head)
    if magic != OLDER_MAGIC or mark not in (None, found) or told_bytes + file_bytes > size_bytes:
        return None
    particulars, file = segment.read(told_bytes), segment.read(file_bytes)
    if zlib.crc32(particulars) != checksum or len(file) < file_bytes:
        return None
    told = json.loads(particulars)
    entry = entry_of(told, file)
    is_whole = (
        zlib.crc32(entry.arrival.file_header) == told["header_crc32"] and entry.sha256 == told["sha256"]
    )
    return (entry, found) if is_whole else None
