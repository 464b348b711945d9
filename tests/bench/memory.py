"""The memory that a call needs at its peak, beyond what the process had before (Linux)."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
FORGET_PEAK = "5"
"""Written to clear_refs, it sets the peak to what is resident now (proc(5))."""


def peak_mib(work: Callable[[], object]) -> float:
    """How far resident memory rose while `work` ran. What earlier work left in the heap goes back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(FORGET_PEAK, "ascii")
    before = _kib("VmRSS")
    work()
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text("ascii"), re.M)
    if found is None:
        raise ValueError(f"{STATUS} has no {name}")
    return int(found[1])
