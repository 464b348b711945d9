"""How images lie in the segments of a journal.

A segment begins with a page that names the mark of its present use, which no sender can know. It tells
entries from what an earlier use left behind, and from pixel data. An entry begins on a page of its own: a
head, what was found out about the image, and its file. Pieces of a large file may lie elsewhere in the
segment, because they were written while the rest was still arriving; the entry says where.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from isal import isal_zlib

from dicomnode.receive.arrival import Arrival, Identity, Origin
from dicomnode.receive.draft import PAGE_BYTES

START_MAGIC = b"dcmjrnl2"
HEAD_MAGIC = b"dcmentry"
START = struct.Struct("<8s16s")
"""START_MAGIC and the mark; alone on the first page."""
HEAD = struct.Struct("<8s16sLLLQ")
"""HEAD_MAGIC, mark, CRC-32 and length of the particulars, CRC-32 of the file, length of its last part."""
MARK = slice(8, 24)
"""Where the mark is in both."""
Piece = tuple[int, int]
"""Offset in the segment, and length in bytes."""


@dataclass(frozen=True)
class Entry:
    """An instance that was acknowledged."""

    arrival: Arrival
    identity: Identity
    received_at: datetime

    @property
    def sha256(self) -> str:
        """Digest of the data set."""
        return self.arrival.sha256


def on_pages(length: int) -> int:
    """The length of whole pages for so many bytes."""
    return -(-length // PAGE_BYTES) * PAGE_BYTES


def head_of(entry: Entry, crc32: int, pieces: Sequence[Piece]) -> bytes:
    """What goes before the file, without the mark; `pieces` of the file lie elsewhere, in this order."""
    arrival = entry.arrival
    header_bytes = len(arrival.file_header)
    particulars = {
        "identity": vars(entry.identity),
        "origin": vars(arrival.origin),
        "sop_class_uid": arrival.sop_class_uid,
        "sop_instance_uid": arrival.sop_instance_uid,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
        "header_bytes": header_bytes,
        "pieces": pieces,
        "received_at": entry.received_at.isoformat(),
    }
    told = json.dumps(particulars).encode()
    here = header_bytes + len(arrival.encoded) - sum(length for _, length in pieces)
    return HEAD.pack(HEAD_MAGIC, bytes(16), isal_zlib.crc32(told), len(told), crc32, here) + told


def entry_at(descriptor: int, offset: int) -> tuple[Entry, int] | None:
    """The entry at a place and where its last page ends; None when there is no whole one."""
    first = os.pread(descriptor, PAGE_BYTES, offset)
    if len(first) < PAGE_BYTES or not first.startswith(HEAD_MAGIC):
        return None
    _, _, told_crc32, told_bytes, file_crc32, last_bytes = HEAD.unpack_from(first)
    last_at = offset + HEAD.size + told_bytes
    if last_at + last_bytes > os.fstat(descriptor).st_size:
        return None
    particulars = first[HEAD.size : HEAD.size + told_bytes]
    if len(particulars) < told_bytes:
        particulars = os.pread(descriptor, told_bytes, offset + HEAD.size)
    if isal_zlib.crc32(particulars) != told_crc32:
        return None
    told = json.loads(particulars)
    file = _joined(descriptor, (*told["pieces"], (last_at, last_bytes)))
    if isal_zlib.crc32(file) != file_crc32:
        return None
    return entry_of(told, file), on_pages(last_at + last_bytes)


def _joined(descriptor: int, pieces: Sequence[Piece]) -> memoryview:
    """What lies at these places, one behind the other."""
    joined = memoryview(bytearray(sum(length for _, length in pieces)))
    end = 0
    for at, length in pieces:
        os.preadv(descriptor, [joined[end : end + length]], at)
        end += length
    return joined


def entries(path: Path) -> Iterator[Entry]:
    """Every whole entry of the present use of a segment; what was not acknowledged may be torn, or none."""
    with path.open("rb") as file:
        magic, mark = START.unpack(file.read(START.size).ljust(START.size))
        if magic != START_MAGIC:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(HEAD_MAGIC + mark)
            while at >= 0:
                found = entry_at(file.fileno(), at) if at % PAGE_BYTES == 0 else None
                if found is not None:
                    yield found[0]
                at = content.find(HEAD_MAGIC + mark, found[1] if found else at + 1)


def entry_of(told: Mapping[str, Any], file: bytes | memoryview) -> Entry:
    """The entry of which these are the particulars and the file."""
    header_bytes: int = told["header_bytes"]
    arrival = Arrival(
        file_header=bytes(file[:header_bytes]),
        encoded=file[header_bytes:],
        sop_class_uid=told["sop_class_uid"],
        sop_instance_uid=told["sop_instance_uid"],
        transfer_syntax_uid=told["transfer_syntax_uid"],
        origin=Origin(**told["origin"]),
    )
    return Entry(arrival, Identity(**told["identity"]), datetime.fromisoformat(told["received_at"]))
