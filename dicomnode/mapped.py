"""Memory straight from the system: it begins on a page, and lies on huge pages where the system has them."""

from __future__ import annotations

import mmap
from contextlib import suppress


def mapped(size_bytes: int) -> mmap.mmap:
    """So much memory of this process alone, full of zeros. Shared memory may get no huge pages."""
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE)
    with suppress(AttributeError, OSError):  # where the system has no such pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
