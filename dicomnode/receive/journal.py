"""The journal of one receiving process: what was acknowledged, until it is a file and a row on the disk.

A journal is a folder of segments: files that were written full of zeros once, so that a later entry changes
no metadata of the file system and is durable by a single `fdatasync`. Each entry is the file of an instance
with what was found out about it. Entries of one use of a segment bear the same mark, which tells them from
what an earlier use left behind them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dicomnode.receive.arrival import Arrival, Identity, Origin
from dicomnode.receive.ownership import make_own
from dicomnode.spool import sync_folder

SEGMENT_BYTES = 32 * 2**20
MOST_SEGMENTS = 16
PAGE_BYTES = 4096
ROOM_TIMEOUT_S = 5.0
LEAST_FREE_SEGMENTS = 4
"""A disk with less room than for so many segments gets no further one."""
HEAD = struct.Struct("<8s16sLLQ")
"""MAGIC, mark, CRC-32 and length of the particulars, length of the file."""
MARK = slice(8, 24)
"""Where the mark is in it."""
MAGIC = b"dcmjrnl1"
ZEROS = bytes(2**20)


class NoRoom(OSError):
    """The journal takes nothing now."""


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


@dataclass(frozen=True)
class Place:
    """Where an entry begins."""

    segment: int
    offset: int


@dataclass
class _Segment:
    number: int
    descriptor: int
    mark: bytes = field(default_factory=lambda: os.urandom(16))
    end: int = 0
    appending: int = 0
    """Entries that were written and are not told of yet."""


class Journal:
    """Appends entries. One per receiving process; safe to call from many threads."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        """`folder` is new, and nobody else's as long as this process lives. The first segment is begun."""
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments: dict[int, _Segment] = {}
        self._free: list[int] = []
        self._full: list[_Segment] = []
        self._current: _Segment | None = None
        self._making = False
        self._refusal: OSError | None = None
        """Why the last segment could not be made."""
        self._written = self._synced = 0
        self._lock = threading.Condition()
        self._syncing = threading.Lock()
        self._sheets = threading.local()
        self._owner = make_own(folder)
        with self._lock:
            self._make_ahead()

    def takes(self, size_bytes: int) -> bool:
        """Whether a file of that size is not too large to be written twice."""
        return size_bytes <= self._segment_bytes // 8

    def append(self, entry: Entry, tell: Callable[[Place], None], filled: Callable[[int], None]) -> None:
        """Write an entry; when this returns, it is on the disk.

        `tell` hears where it is; afterwards `filled` hears of each segment that is full and all told of.
        Raises NoRoom, and OSError when the disk does not take it.
        """
        segment, ticket, place = self._write(self._sheet(_encoded(entry)))
        try:
            self._sync(ticket)
            tell(place)
        finally:
            with self._lock:
                segment.appending -= 1
                full = [one for one in self._full if not one.appending]
                self._full = [one for one in self._full if one.appending]
        for one in full:
            filled(one.number)

    def _sheet(self, parts: list[bytes]) -> memoryview:
        """An entry on whole pages of memory, as what goes past the cache of the system must be.

        It is valid until the same thread asks for the next one.
        """
        length = sum(len(part) for part in parts)
        whole = -(-length // PAGE_BYTES) * PAGE_BYTES
        pages: mmap.mmap | None = getattr(self._sheets, "pages", None)
        if pages is None or len(pages) < whole:
            pages = self._sheets.pages = mmap.mmap(-1, 2 * whole)
        pages.seek(0)
        for part in parts:
            pages.write(part)
        return memoryview(pages)[:whole]

    def _write(self, sheet: memoryview) -> tuple[_Segment, int, Place]:
        with self._lock:
            segment = self._segment_for(len(sheet))
            place = Place(segment.number, segment.end)
            sheet[MARK] = segment.mark
            if os.pwrite(segment.descriptor, sheet, segment.end) != len(sheet):
                raise OSError("the journal took only a part of an entry")
            segment.end += len(sheet)
            segment.appending += 1
            self._written += 1
            return segment, self._written, place

    def free(self, number: int) -> None:
        """All entries of a segment are files and rows on the disk: it may be written over."""
        with self._lock:
            self._free.append(number)
            self._lock.notify_all()

    def close(self, *, is_done: bool) -> None:
        """Close it, and remove it when all that is in it `is_done`."""
        with self._lock:
            self._lock.wait_for(lambda: not self._making)
        for segment in self._segments.values():
            os.close(segment.descriptor)
        if is_done:
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._owner)

    def _sync(self, ticket: int) -> None:
        """One synchronisation serves all who wrote before it; a full segment was synchronised already."""
        with self._syncing:
            if self._synced >= ticket:
                return
            with self._lock:
                written, current = self._written, self._current
            assert current is not None
            os.fdatasync(current.descriptor)
            self._synced = written

    def _segment_for(self, length: int) -> _Segment:
        """The segment to write to."""
        current = self._current
        if current is not None and current.end + length <= self._segment_bytes:
            return current
        following = self._next_segment()
        if current is not None:
            os.fdatasync(current.descriptor)
            self._full.append(current)
        self._current = following
        return following

    def _next_segment(self) -> _Segment:
        """A free one; the one after it is made meanwhile, so that no sender waits for zeros."""
        self._make_ahead()
        if not self._lock.wait_for(lambda: self._free or self._refusal, ROOM_TIMEOUT_S) or not self._free:
            raise self._refusal or NoRoom(
                "the journal is full: what was acknowledged is not recorded in time"
            )
        segment = self._segments[self._free.pop(0)]
        segment.mark, segment.end = os.urandom(16), 0
        self._make_ahead()
        return segment

    def _make_ahead(self) -> None:
        """Begin to make a further segment, where none is free."""
        if not self._free and not self._making and len(self._segments) < MOST_SEGMENTS:
            self._making, self._refusal = True, None
            threading.Thread(target=self._make, name="journal", daemon=True).start()

    def _make(self) -> None:
        made: _Segment | None = None
        refusal: OSError | None = None
        try:
            made = self._new_segment(len(self._segments) + 1)
        except OSError as error:
            refusal = error
        with self._lock:
            self._making, self._refusal = False, refusal
            if made is not None:
                self._segments[made.number] = made
                self._free.append(made.number)
            self._lock.notify_all()

    def _new_segment(self, number: int) -> _Segment:
        if shutil.disk_usage(self._folder).free < LEAST_FREE_SEGMENTS * self._segment_bytes:
            raise NoRoom("the disk has no room for a further segment")
        path = segment_path(self._folder, number)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            for _ in range(self._segment_bytes // len(ZEROS)):
                os.write(descriptor, ZEROS)
            os.fsync(descriptor)
            for folder in (self._folder, self._folder.parent, self._folder.parent.parent):
                sync_folder(folder)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        return _Segment(number, _open_past_the_cache(path))


def _open_past_the_cache(path: Path) -> int:
    """Open for writes that go from our memory to the disk at once, where the file system can do that."""
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, os.O_RDWR)


def segment_path(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:04d}.journal"


def entry_at(descriptor: int, offset: int, mark: bytes | None = None) -> tuple[Entry, bytes, int] | None:
    """The entry at a place, its mark, and where the next one begins; None when there is no whole one."""
    head = os.pread(descriptor, HEAD.size, offset)
    if len(head) < HEAD.size:
        return None
    magic, found, checksum, particulars_bytes, file_bytes = HEAD.unpack(head)
    left = os.fstat(descriptor).st_size - offset - HEAD.size
    if magic != MAGIC or mark not in (None, found) or particulars_bytes + file_bytes > left:
        return None
    content = os.pread(descriptor, particulars_bytes + file_bytes, offset + HEAD.size)
    particulars, file = content[:particulars_bytes], content[particulars_bytes:]
    if zlib.crc32(particulars) != checksum or len(file) != file_bytes:
        return None
    entry = _decoded(particulars, file)
    length = HEAD.size + len(content)
    return (entry, found, offset + -(-length // PAGE_BYTES) * PAGE_BYTES) if entry else None


def entries(path: Path) -> Iterator[Entry]:
    """Every whole entry of a segment; after a loss of power the last one may be none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        offset, mark = 0, None
        while (found := entry_at(descriptor, offset, mark)) is not None:
            entry, mark, offset = found
            if hashlib.sha256(entry.arrival.encoded).hexdigest() != entry.sha256:
                return
            yield entry
    finally:
        os.close(descriptor)


def _encoded(entry: Entry) -> list[bytes]:
    """The head without its mark, the particulars, and the file in two parts."""
    arrival = entry.arrival
    particulars = {
        "identity": vars(entry.identity),
        "origin": vars(arrival.origin),
        "sop_class_uid": arrival.sop_class_uid,
        "sop_instance_uid": arrival.sop_instance_uid,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
        "header_bytes": len(arrival.file_header),
        "header_crc32": zlib.crc32(arrival.file_header),
        "sha256": arrival.sha256,
        "received_at": entry.received_at.isoformat(),
    }
    told = json.dumps(particulars).encode()
    file_bytes = len(arrival.file_header) + len(arrival.encoded)
    head = HEAD.pack(MAGIC, bytes(16), zlib.crc32(told), len(told), file_bytes)
    return [head, told, arrival.file_header, arrival.encoded]


def _decoded(particulars: bytes, file: bytes) -> Entry | None:
    told = json.loads(particulars)
    header_bytes = told["header_bytes"]
    if zlib.crc32(file[:header_bytes]) != told["header_crc32"]:
        return None
    arrival = Arrival(
        file_header=file[:header_bytes],
        encoded=file[header_bytes:],
        sha256=told["sha256"],
        sop_class_uid=told["sop_class_uid"],
        sop_instance_uid=told["sop_instance_uid"],
        transfer_syntax_uid=told["transfer_syntax_uid"],
        origin=Origin(**told["origin"]),
    )
    received_at = datetime.fromisoformat(told["received_at"])
    return Entry(arrival, Identity(**told["identity"]), received_at)
