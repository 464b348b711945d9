"""The image grid: voxels and where they are in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from inference.errors import MissingGeometry

Voxels = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]
"""A part of a grid: ranges of slices, rows and columns."""
IntensityUnit = Literal["HU", "arbitrary", "grey"]
"""Hounsfield units (CT), a scanner's own scale (MR), or grey for display only (ultrasound, screenshots)."""


@dataclass(frozen=True)
class Clip:
    """One still image or one loop among images without a place in the patient.

    It begins with slice `first_slice` and ends where the next clip begins. `spacing_mm` is the distance
    (between rows, between columns) of its pixels, or None where the image does not say.
    """

    first_slice: int
    spacing_mm: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels in patient space.

    `voxels` has the axes (slice, row, column) and holds real-world values (Hounsfield units for CT)
    as int16 or float32. `affine_lps` (4 x 4, float64) maps (slice, row, column, 1) to LPS
    millimetres; its columns need not be orthogonal, so a gantry tilt is kept as it is. It is None
    for images without a place in the patient (most ultrasound): then `in_plane_spacing_mm`
    (between rows, between columns) may still give distances within one image, and the slices may
    belong to several `clips`, each with its own spacing: `in_plane_spacing_mm` is what all share.

    Raises ValueError for a wrong shape, a singular affine, or spacing or clips that contradict it.
    """

    voxels: Voxels
    affine_lps: Affine | None
    intensity_unit: IntensityUnit
    in_plane_spacing_mm: tuple[float, float] | None = None
    clips: tuple[Clip, ...] = ()
    """In slice order; empty when all slices belong together."""
    slice_places: tuple[float, ...] = ()
    """Where each slice lies along the slice axis, in steps of the affine. Empty: slice i lies at i, as in
    every evenly spaced series."""
    thickness_known: bool = True
    """False for a single slice that does not say how thick it is: its step in the affine is a stand-in."""

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or 0 in self.voxels.shape:
            raise ValueError(f"voxels must be (slice, row, column), got shape {self.voxels.shape}")
        if self.voxels.dtype not in (np.dtype(np.int16), np.dtype(np.float32)):
            raise ValueError(f"voxels must be int16 or float32, got {self.voxels.dtype}")
        if self.affine_lps is None:
            if self.slice_places:
                raise ValueError("slices without a place in the patient have no distances")
            self._check_clips()
            return
        if self.affine_lps.shape != (4, 4) or not np.isfinite(self.affine_lps).all():
            raise ValueError("affine_lps must be a finite 4 x 4 matrix")
        if self.voxel_volume_mm3 < 1e-9:
            raise ValueError("affine_lps is singular: two voxels would share one place")
        if self.in_plane_spacing_mm is not None or self.clips:
            raise ValueError("spacing follows from affine_lps; do not give it twice")
        if self.slice_places:
            self._check_places()

    def _check_places(self) -> None:
        if len(self.slice_places) != self.shape[0] or self.slice_places[0] != 0.0:
            raise ValueError(f"{self.shape[0]} slices need as many places, the first of them 0")
        if not np.all(np.diff(self.slice_places) > 0):
            raise ValueError("slice_places must grow from slice to slice")

    def _check_clips(self) -> None:
        starts = [clip.first_slice for clip in self.clips]
        if starts and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= self.shape[0]):
            raise ValueError(f"clips must begin at slice 0 and follow each other: {starts}")
        if self.in_plane_spacing_mm and any(c.spacing_mm != self.in_plane_spacing_mm for c in self.clips):
            raise ValueError("in_plane_spacing_mm is not that of every clip")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns."""
        slices, rows, columns = self.voxels.shape
        return slices, rows, columns

    @property
    def box(self) -> Box:
        """All of it."""
        slices, rows, columns = self.shape
        return slice(0, slices), slice(0, rows), slice(0, columns)

    @property
    def has_geometry(self) -> bool:
        """Whether the voxels have a place in the patient."""
        return self.affine_lps is not None

    @cached_property
    def affine(self) -> Affine:
        """`affine_lps`; raises MissingGeometry where there is none."""
        if self.affine_lps is None:
            raise MissingGeometry("this image has no place in the patient (no frame of reference)")
        return self.affine_lps

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel at the affine's slice distance, exact for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @cached_property
    def slice_extents(self) -> npt.NDArray[np.float64]:
        """Part of the slice axis that each slice stands for, in steps: half way to either neighbour.

        The first and the last slice reach as far outwards as inwards.
        """
        if len(self.slice_places) < 2:
            return np.ones(self.shape[0])
        gaps = np.diff(np.asarray(self.slice_places))
        before, after = np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]])
        extents: npt.NDArray[np.float64] = (before + after) / 2
        return extents

    def volume_mm3(self, mask: npt.NDArray[np.bool_], first_slice: int = 0) -> float:
        """Volume of the voxels in `mask` (slice, row, column), whose slices begin at `first_slice`."""
        if not self.slice_places:
            return int(np.count_nonzero(mask)) * self.voxel_volume_mm3
        counts = np.count_nonzero(mask, axis=(1, 2))
        extents = self.slice_extents[first_slice : first_slice + len(counts)]
        return float(counts @ extents) * self.voxel_volume_mm3

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (slice, row, column); the usual one of slices."""
        slice_mm, row_mm, column_mm = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slice_mm), float(row_mm), float(column_mm)

    def pixel_spacing_at(self, slice_index: int) -> tuple[float, float] | None:
        """Distance between rows and between columns of one slice, or None where it is not known."""
        if self.affine_lps is not None:
            return self.spacing_mm[1], self.spacing_mm[2]
        clip = next((clip for clip in reversed(self.clips) if clip.first_slice <= slice_index), None)
        return self.in_plane_spacing_mm if clip is None else clip.spacing_mm

    @property
    def runs(self) -> tuple[slice, ...]:
        """Ranges of slices that belong together, in space or in time: one lesion never leaves its run."""
        starts = [clip.first_slice for clip in self.clips] or [0]
        return tuple(slice(a, b) for a, b in zip(starts, [*starts[1:], self.shape[0]], strict=True))

    def to_lps_mm(self, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Positions (..., 3) in LPS millimetres of voxel indices (..., 3) as (slice, row, column)."""
        points = self.to_steps(indices)
        moved: npt.NDArray[np.float64] = points @ self.affine[:3, :3].T + self.affine[:3, 3]
        return moved

    def to_steps(self, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel indices (..., 3) with the slice index turned into steps of the affine's slice axis."""
        points = np.array(indices, dtype=np.float64)
        if self.slice_places:
            known = np.arange(self.shape[0], dtype=np.float64)
            points[..., 0] = _along(points[..., 0], known, np.asarray(self.slice_places))
        return points

    def to_indices(self, points_lps_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional voxel indices (..., 3) of positions (..., 3) in LPS millimetres: `to_lps_mm` undone."""
        offsets = np.asarray(points_lps_mm, dtype=np.float64) - self.affine[:3, 3]
        indices: npt.NDArray[np.float64] = offsets @ np.linalg.inv(self.affine[:3, :3]).T
        if self.slice_places:
            known = np.arange(self.shape[0], dtype=np.float64)
            indices[..., 0] = _along(indices[..., 0], np.asarray(self.slice_places), known)
        return indices


def _along(
    values: npt.NDArray[np.float64], known: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Linear between known pairs; beyond the ends one step outside is one step outside."""
    inside: npt.NDArray[np.float64] = np.interp(values, known, targets)
    beyond: npt.NDArray[np.float64] = np.minimum(values - known[0], 0) + np.maximum(values - known[-1], 0)
    return inside + beyond
