"""Memory straight from the system."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from dicomnode.mapped import mapped

needs_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no huge pages"
)


@needs_huge_pages
def test_huge_pages_are_asked_for_in_memory_that_can_have_them() -> None:
    pages = mapped(2**22)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)[1:]
    (ours,) = [told for told in mappings if _lies_in(address, told)]
    assert re.match(r"\S+ rw-p ", ours), "private: shared memory gets none unless the system is told so"
    assert " hg" in next(line for line in ours.splitlines() if line.startswith("VmFlags:"))


def _lies_in(address: int, told: str) -> bool:
    first, last = (int(end, 16) for end in told.split(maxsplit=1)[0].split("-"))
    return first <= address < last
