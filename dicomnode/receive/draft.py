"""The file of an image as it arrives, in memory that can be written past the cache of the system as it is."""

from __future__ import annotations

import mmap

from isal import isal_zlib

from dicomnode.mapped import mapped
from dicomnode.receive.arrival import Arrival

PAGE_BYTES = mmap.PAGESIZE
FIRST_BYTES = 2**21
"""What fits into one huge page, which the disk takes as one piece."""
MOST_KEPT_BYTES = 2**24
"""More than this is given back to the system when a large object is done."""


class Pages:
    """Whole pages of memory that grow, and serve one image of an association after the other."""

    def __init__(self, size_bytes: int = FIRST_BYTES) -> None:
        self.view = _whole_pages(size_bytes)

    def hold(self, size_bytes: int, used_bytes: int) -> None:
        """Be large enough for so much, and keep what is used of it."""
        if size_bytes <= len(self.view):
            return
        larger = _whole_pages(max(size_bytes, 2 * len(self.view)))
        larger[:used_bytes] = self.view[:used_bytes]
        self.view = larger

    def trim(self) -> None:
        """Forget what is in it; give back what an image seldom needs."""
        if len(self.view) > MOST_KEPT_BYTES:
            self.view = _whole_pages(FIRST_BYTES)


class Draft:
    """A file that grows: its header, and behind it the data set as far as it has come."""

    def __init__(self, pages: Pages, file_header: bytes) -> None:
        """The pages are this draft's until the next one is made of them."""
        pages.trim()
        self._pages = pages
        self.header_bytes = len(file_header)
        self.size_bytes = 0
        self.crc32 = 0
        """Of all that is there, header included."""
        self.add(file_header)

    def add(self, content: bytes | memoryview) -> None:
        """Keep a copy of what comes next."""
        self.room(len(content))[:] = content
        self.came(len(content))

    def room(self, count: int) -> memoryview:
        """Where the next so many bytes belong."""
        end = self.size_bytes + count
        self._pages.hold(end, self.size_bytes)
        return self._pages.view[self.size_bytes : end]

    def came(self, count: int) -> None:
        """They are there."""
        end = self.size_bytes + count
        self.crc32 = isal_zlib.crc32(self._pages.view[self.size_bytes : end], self.crc32)
        self.size_bytes = end

    @property
    def file(self) -> memoryview:
        """All that is there."""
        return self._pages.view[: self.size_bytes]

    @property
    def encoded(self) -> memoryview:
        """The data set, without the header of the file."""
        return self._pages.view[self.header_bytes : self.size_bytes]


def draft_of(arrival: Arrival) -> Draft:
    """The draft of an image that is here as a whole."""
    draft = Draft(Pages(len(arrival.file_header) + len(arrival.encoded)), arrival.file_header)
    draft.add(arrival.encoded)
    return draft


def _whole_pages(size_bytes: int) -> memoryview:
    return memoryview(mapped(-(-size_bytes // PAGE_BYTES) * PAGE_BYTES))
