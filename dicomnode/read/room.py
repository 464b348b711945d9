"""Memory that one volume after the other is read into.

Fresh memory must be emptied by the system before it is used; a virtual machine may have to ask its host for
each page of it first, which takes longer than reading the images. What a worker used once is there at once.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.mapped import mapped
from inference.volume import Voxels

MOST_KEPT_BYTES = 2**30
"""A larger volume gets memory of its own, and gives it back."""

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Voxels]
"""Makes an array whose content means nothing yet, as np.empty does."""


class Room:
    """Room for one volume. For one thread; whoever still has the last one keeps it."""

    def __init__(self) -> None:
        self._pages: mmap.mmap | None = None

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Voxels:
        """An array that nobody else has, in the memory of the last one unless that is still in use."""
        count, size_bytes = math.prod(shape), math.prod(shape) * np.dtype(dtype).itemsize
        if size_bytes > MOST_KEPT_BYTES:
            return np.empty(shape, dtype)
        if self._pages is None or not _grown(self._pages, size_bytes):
            self._pages = mapped(size_bytes)
        voxels: npt.NDArray[Any] = np.frombuffer(self._pages, dtype, count)
        return voxels.reshape(shape)


def _grown(pages: mmap.mmap, size_bytes: int) -> bool:
    """Make it large enough. False where an array, or a part of one, lies in it."""
    try:
        pages.resize(max(size_bytes, len(pages)))
    except BufferError:
        return False
    return True
