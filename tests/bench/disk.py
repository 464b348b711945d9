"""What a disk takes to hold files for good, without anything around it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dicomnode.receive.entries import on_pages
from dicomnode.receive.journal import ZEROS
from tests.bench.harness import Run


@contextmanager
def written_alone(folder: Path, sources: Sequence[Path]) -> Iterator[Run]:
    """Writes and synchronises each file in `sources`, past the cache, into one that was full of zeros."""
    folder.mkdir(parents=True)
    sheets = [_sheet(path.read_bytes()) for source in sources for path in source.iterdir()]
    descriptor = opened_full_of_zeros(folder / "written", sum(map(len, sheets)))

    def run() -> None:
        offset = 0
        for sheet in sheets:
            offset += os.pwrite(descriptor, sheet, offset)
            os.fdatasync(descriptor)

    try:
        yield run
    finally:
        os.close(descriptor)


def opened_full_of_zeros(path: Path, size_bytes: int) -> int:
    """A new file as a segment of the journal is: later writes change nothing but its content."""
    with path.open("wb") as file:
        for _ in range(-(-size_bytes // len(ZEROS))):
            file.write(ZEROS)
        os.fsync(file.fileno())
    return os.open(path, os.O_RDWR | os.O_DIRECT)


def _sheet(content: bytes) -> mmap.mmap:
    """As much on whole pages of memory, as such writes need it."""
    sheet = mmap.mmap(-1, on_pages(len(content)))
    sheet.write(content)
    return sheet
