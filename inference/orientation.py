"""Turning a volume so that a network always sees the patient the same way round."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch

from inference.volume import Affine, Volume

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")
"""By the axis of LPS along which the slices follow each other."""
SUPERIOR_POSTERIOR_LEFT = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Rows: the directions in LPS of the canonical axes (slice, row, column)."""


@dataclass(frozen=True)
class Turn:
    """A change of axis order and direction, without resampling.

    Axis i of the turned array is axis `axes[i]` of the source, reversed where `reversed_axes[i]`.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    reversed_axes: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, array: torch.Tensor) -> torch.Tensor:
        """Turn the last three axes (slice, row, column) of `array`."""
        lead = array.ndim - 3
        order = (*range(lead), *(lead + axis for axis in self.axes))
        return array.permute(order).flip(self._flipped(lead))

    def undo(self, array: torch.Tensor) -> torch.Tensor:
        """The inverse of `apply`."""
        lead = array.ndim - 3
        order = (*range(lead), *(lead + int(axis) for axis in np.argsort(self.axes)))
        return array.flip(self._flipped(lead)).permute(order)

    def of(self, triple: tuple[float, float, float]) -> tuple[float, float, float]:
        """Three numbers along the source axes, brought into the order of the turned axes."""
        first, second, third = (triple[axis] for axis in self.axes)
        return first, second, third

    def _flipped(self, lead: int) -> list[int]:
        return [lead + axis for axis, reverse in enumerate(self.reversed_axes) if reverse]


UNTURNED = Turn()


def to_canonical(affine_lps: Affine) -> Turn:
    """The turn after which slices run most nearly to superior, rows to posterior, columns to left."""
    directions = affine_lps[:3, :3] / np.linalg.norm(affine_lps[:3, :3], axis=0)
    along = SUPERIOR_POSTERIOR_LEFT @ directions  # [canonical axis, source axis]
    axes = max(permutations(range(3)), key=lambda order: sum(abs(along[i, a]) for i, a in enumerate(order)))
    first, second, third = (bool(along[i, axis] < 0) for i, axis in enumerate(axes))
    return Turn((axes[0], axes[1], axes[2]), (first, second, third))


def plane_of(volume: Volume) -> Plane:
    """The plane that the slices lie in most nearly; raises MissingGeometry where there is none."""
    normal = np.cross(volume.affine[:3, 1], volume.affine[:3, 2])
    return PLANES[int(np.abs(normal).argmax())]
