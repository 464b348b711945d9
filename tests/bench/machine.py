"""The machine, the commit and the day of a run, in neutral words."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pynvml

ROOT = Path(__file__).parents[2]


def machine() -> str:
    """Cores, processor, memory, GPUs, Python and how busy the machine was with other work."""
    processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = [
        f"{len(os.sched_getaffinity(0))} cores ({processor[1].strip() if processor else platform.machine()})",
        f"{memory_bytes / 2**30:.0f} GiB of memory",
        *gpus(),
        f"Python {platform.python_version()}",
        f"load {os.getloadavg()[0]:.1f} at the start",
    ]
    return ", ".join(parts)


def gpus() -> list[str]:
    """Names of the GPUs; none without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]


def commit() -> str:
    """The commit of the working tree, with a mark for uncommitted changes."""
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def today() -> str:
    """The day, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")
