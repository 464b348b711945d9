"""What the machine has left: disk and memory of its GPUs. Loads no model code."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pynvml


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU."""

    name: str
    used_bytes: int
    total_bytes: int


def gpu_memory() -> list[GpuMemory]:
    """The GPUs that NVIDIA's driver knows; empty without a driver or a GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_memory(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _memory(index: int) -> GpuMemory:
    memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
    return GpuMemory(f"cuda:{index}", int(memory.used), int(memory.total))


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds `folder`, or the nearest folder above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
