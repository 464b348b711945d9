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

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or 0 in self.voxels.shape:
            raise ValueError(f"voxels must be (slice, row, column), got shape {self.voxels.shape}")
        if self.voxels.dtype not in (np.dtype(np.int16), np.dtype(np.float32)):
            raise ValueError(f"voxels must be int16 or float32, got {self.voxels.dtype}")
        if self.affine_lps is None:
            self._check_clips()
            return
        if self.affine_lps.shape != (4, 4) or not np.isfinite(self.affine_lps).all():
            raise ValueError("affine_lps must be a finite 4 x 4 matrix")
        if self.voxel_volume_mm3 < 1e-9:
            raise ValueError("affine_lps is singular: two voxels would share one place")
        if self.in_plane_spacing_mm is not None or self.clips:
            raise ValueError("spacing follows from affine_lps; do not give it twice")

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
        """Volume of one voxel, exact for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (slice, row, column)."""
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
        points = np.asarray(indices, dtype=np.float64)
        moved: npt.NDArray[np.float64] = points @ self.affine[:3, :3].T + self.affine[:3, 3]
        return moved
