"""Memory for inference: what a network needs of it, and what there is."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOST_BYTES = 4 * 2**30
"""On a CPU, whose memory others need too."""
SHARE_OF_FREE = {"cpu": 0.5, "cuda": 0.7}
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
WORKSPACE = 2.2
"""Convolutions copy maps into a layout of their own: measured on a small 3-D U-Net, a process grows by
2.1 times what results hold."""


def free_bytes(device: torch.device) -> int:
    """Memory that one piece of work may take on `device`.

    A power of two, so that a study is cut alike every time although a little more or less is free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return _power_of_two(int(free * SHARE_OF_FREE["cuda"]))
    free = int(MEMINFO.read_text().split("MemAvailable:")[1].split()[0]) * 1024
    return _power_of_two(min(int(_left_in_group(free) * SHARE_OF_FREE["cpu"]), MOST_BYTES))


def _power_of_two(count: int) -> int:
    return 1 << max(0, count.bit_length() - 1)


def _left_in_group(free: int) -> int:
    """What a container's limit leaves of `free` bytes."""
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if not limit.exists() or not used.exists() or (most := limit.read_text().strip()) == "max":
        return free
    return max(0, min(free, int(most) - int(used.read_text())))


@torch.no_grad()
def bytes_per_voxel(network: torch.nn.Module, channels: int, window_size: Sequence[int]) -> float:
    """The memory that one pass takes, per voxel of its input: of its results, and as workspace."""
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    window = torch.zeros(1, channels, *window_size, device=device)
    with _Watched() as watched:
        network(window)
    peak_bytes: int = watched.peak_bytes
    return WORKSPACE * peak_bytes * channels / window.numel()


class _Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives its base no types
    """Counts the bytes of all tensors that are made and not yet freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._count(result.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, count: int) -> None:
        self._known.discard(key)
        self._bytes -= count
