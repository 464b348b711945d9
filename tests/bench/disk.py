"""What a disk takes to hold files for good, without anything around it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.harness import Run


@contextmanager
def written_alone(folder: Path, sources: Sequence[Path]) -> Iterator[Run]:
    """Writes and synchronises each file in `sources`, past the cache, into one that was full of zeros."""
    folder.mkdir(parents=True)
    sheets = [_sheet(path.read_bytes()) for source in sources for path in source.iterdir()]
    written = folder / "written"
    with written.open("wb") as file:
        for sheet in sheets:
            file.write(bytes(len(sheet)))
        os.fsync(file.fileno())
    descriptor = os.open(written, os.O_RDWR | os.O_DIRECT)

    def run() -> None:
        offset = 0
        for sheet in sheets:
            offset += os.pwrite(descriptor, sheet, offset)
            os.fdatasync(descriptor)

    try:
        yield run
    finally:
        os.close(descriptor)


def _sheet(content: bytes) -> mmap.mmap:
    """As much on whole pages of memory, as such writes need it."""
    sheet = mmap.mmap(-1, -(-len(content) // mmap.PAGESIZE) * mmap.PAGESIZE)
    sheet.write(content)
    return sheet
