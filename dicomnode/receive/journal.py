"""The journal of one receiving process: what was acknowledged, until it is a file and a row on the disk.

A journal is a folder of segments: files that were written full of zeros once, so that a later entry changes
no metadata of the file system and is durable by a single `fdatasync`. What is in them, `entries.py` says.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.receive.draft import PAGE_BYTES, Draft, Pages, draft_of
from dicomnode.receive.entries import MARK, START, START_MAGIC, Entry, Piece, head_of, on_pages
from dicomnode.receive.ownership import make_own
from dicomnode.spool import sync_folder

SEGMENT_BYTES = 32 * 2**20
MOST_SEGMENTS = 16
PIECE_BYTES = 3 * 2**17
"""So much of a large image is written at a time while the rest arrives. A CT image has one such piece and a
rest: each further one would cost a thread its turn."""
MOST_WRITERS = 8
"""Pieces that are written at once; more wait for each other."""
ROOM_TIMEOUT_S = 5.0
LEAST_FREE_SEGMENTS = 4
"""A disk with less room than for so many segments gets no further one."""
ZEROS = bytes(2**20)


class NoRoom(OSError):
    """The journal takes nothing now."""


@dataclass(frozen=True)
class Place:
    """Where an entry begins."""

    segment: int
    offset: int


@dataclass
class _Segment:
    number: int
    descriptor: int
    mark: bytes = b""
    end: int = 0
    appending: int = 0
    """Entries of which something is written, and that are not told of yet."""


@dataclass
class Ahead:
    """What of an image is written already, while the rest arrives; see `Journal.write_ahead`."""

    segment: _Segment | None = None
    pieces: list[Piece] = field(default_factory=list)
    size_bytes: int = 0
    writing: list[Future[None]] = field(default_factory=list)
    is_given_up: bool = False
    """Whether no more is written before the image is whole."""


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
        self._is_closing = False
        self._refusal: OSError | None = None
        """Why the last segment could not be made."""
        self._lock = threading.Condition()
        self._start = Pages(PAGE_BYTES)
        self._sheets = threading.local()
        self._writers = ThreadPoolExecutor(MOST_WRITERS, thread_name_prefix="journal")
        self._owner = make_own(folder)
        with self._lock:
            self._make_ahead()

    def takes(self, size_bytes: int) -> bool:
        """Whether a file of that size is not too large to be written twice."""
        return size_bytes <= self._segment_bytes // 8

    def write_ahead(self, draft: Draft, ahead: Ahead) -> None:
        """Begin to write what has come of a large image, as far as it fills pieces.

        Nothing of it counts before `append`. Whoever does not append must `forget`. Raises as `append`.
        """
        while draft.size_bytes - ahead.size_bytes >= PIECE_BYTES:
            reserved = self._reserved(PIECE_BYTES, ahead)
            if reserved is None:
                return
            segment, offset = reserved
            end = ahead.size_bytes + PIECE_BYTES
            piece = draft.file[ahead.size_bytes : end]
            ahead.writing.append(self._writers.submit(_write_whole, segment, piece, offset))
            ahead.pieces.append((offset, PIECE_BYTES))
            ahead.size_bytes = end

    def forget(self, ahead: Ahead) -> None:
        """Leave what was written ahead to be written over with the rest of its segment."""
        wait(ahead.writing)  # else they would write over what comes there next
        with self._lock:
            if ahead.segment is not None:
                ahead.segment.appending -= 1
        ahead.segment, ahead.size_bytes = None, 0
        ahead.pieces.clear()
        ahead.writing.clear()

    def append(
        self,
        entry: Entry,
        tell: Callable[[Place], None],
        filled: Callable[[int], None],
        draft: Draft | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """Write an entry, less what was written of it ahead; when this returns, it is on the disk.

        `tell` hears where it is; afterwards `filled` hears of each segment that is full and all told of.
        Raises NoRoom, and OSError when the disk does not take it.
        """
        draft, ahead = draft or draft_of(entry.arrival), ahead or Ahead()
        try:
            segment, offset = self._written(entry, draft, ahead)
            os.fdatasync(segment.descriptor)  # the system makes one of those that come together
            tell(Place(segment.number, offset))
        finally:
            self.forget(ahead)
        for number in self._done_with():
            filled(number)

    def _written(self, entry: Entry, draft: Draft, ahead: Ahead) -> tuple[_Segment, int]:
        """Write the last part of an entry, or all of it where its segment has no room for that."""
        sheet = self._sheet(head_of(entry, draft.crc32, ahead.pieces), draft.file[ahead.size_bytes :])
        reserved = self._reserved(len(sheet), ahead)
        if reserved is None:
            self.forget(ahead)
            return self._written(entry, draft, ahead)
        segment, offset = reserved
        sheet[MARK] = segment.mark
        _write_whole(segment, sheet, offset)
        for piece in ahead.writing:
            piece.result()
        return reserved

    def _sheet(self, *parts: bytes | memoryview) -> memoryview:
        """All this on whole pages of memory, as what goes past the cache of the system must be.

        It is valid until the same thread asks for the next one.
        """
        pages: Pages | None = getattr(self._sheets, "pages", None)
        if pages is None:
            pages = self._sheets.pages = Pages()
        whole = on_pages(sum(len(part) for part in parts))
        pages.hold(whole, 0)
        end = 0
        for part in parts:
            pages.view[end : end + len(part)] = part
            end += len(part)
        return pages.view[:whole]

    def _reserved(self, length: int, ahead: Ahead) -> tuple[_Segment, int] | None:
        """Where there is room for so much; None when it is not where the pieces written ahead are."""
        with self._lock:
            if self._is_closing:
                raise NoRoom("the journal is being closed")
            if ahead.segment is None:
                ahead.segment = self._segment_for(length)
                ahead.segment.appending += 1
            elif ahead.segment.end + length > self._segment_bytes:
                return None
            offset = ahead.segment.end
            ahead.segment.end += length
            return ahead.segment, offset

    def _done_with(self) -> list[int]:
        """Full segments of which all entries are told."""
        with self._lock:
            done = [one.number for one in self._full if not one.appending]
            self._full = [one for one in self._full if one.appending]
            return done

    def free(self, number: int) -> None:
        """All entries of a segment are files and rows on the disk: it may be written over."""
        with self._lock:
            self._free.append(number)
            self._lock.notify_all()

    def refuse(self) -> None:
        """Take no further entry: an association may outlive the listener."""
        with self._lock:
            self._is_closing = True

    def close(self, *, is_done: bool) -> None:
        """Close it, and remove it when all that is in it `is_done`."""
        self.refuse()
        self._writers.shutdown()
        with self._lock:
            self._lock.wait_for(lambda: not self._making)
            for segment in self._segments.values():
                if not segment.appending:  # else somebody may still write to this number
                    os.close(segment.descriptor)
        if is_done:
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._owner)

    def _segment_for(self, length: int) -> _Segment:
        """The segment to write to. Waits where the journal is full, and raises NoRoom in the end."""
        while (current := self._current) is None or current.end + length > self._segment_bytes:
            self._wait_for_the_next(current)
            if self._current is current:  # nobody has gone on to it meanwhile
                self._begin_next()
        return current

    def _wait_for_the_next(self, current: _Segment | None) -> None:
        """Wait until a segment is free, or another thread has gone on to one."""
        self._make_ahead()
        self._lock.wait_for(
            lambda: self._free or self._refusal or self._current is not current, ROOM_TIMEOUT_S
        )
        if self._current is current and not self._free:
            raise self._refusal or NoRoom(
                "the journal is full: what was acknowledged is not recorded in time"
            )

    def _begin_next(self) -> None:
        """Go on to a free segment; the one after it is made meanwhile, so that no sender waits for zeros."""
        segment = self._segments[self._free[0]]
        segment.mark, segment.end = os.urandom(16), PAGE_BYTES
        START.pack_into(self._start.view, 0, START_MAGIC, segment.mark)
        _write_whole(segment, self._start.view, 0)
        self._free.pop(0)  # not sooner: it stays free where the disk does not take this
        if self._current is not None:
            self._full.append(self._current)
        self._current = segment
        self._lock.notify_all()
        self._make_ahead()

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


def _write_whole(segment: _Segment, sheet: memoryview, offset: int) -> None:
    if os.pwrite(segment.descriptor, sheet, offset) != len(sheet):
        raise OSError("the journal took only a part of an entry")


def segment_path(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:04d}.journal"
