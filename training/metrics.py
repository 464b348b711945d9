"""Agreement of two masks: overlap, distance between surfaces, volume.

All distances are in the unit of the spacing: millimetres, or pixels where the size of a pixel is not
known. Volumes are in its cube; a single image has an area instead (see `agreement`).

Empty masks are defined, not skipped. Both empty: Dice, IoU and surface Dice are 1 (full agreement) and
the distances are 0. One empty: Dice, IoU and surface Dice are 0 and there is no distance, which is
None and is left out of means; tables say how many were left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.metrics.utils import (
    create_table_neighbour_code_to_contour_length,
    create_table_neighbour_code_to_surface_area,
)
from scipy import ndimage
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]
Distances = npt.NDArray[np.float64]

DEFAULT_TOLERANCE = 1.0
"""Of the surface Dice, for millimetres; images in pixels want a value of their own."""
ROUNDING = 1e-9
"""Relative slack of the tolerance: a surface exactly that far away counts as within it."""


@dataclass(frozen=True)
class Agreement:
    """How far a found mask agrees with the truth.

    dice          2 |F & T| / (|F| + |T|)
    iou           |F & T| / |F | T|
    hausdorff     largest distance from a surface voxel of one mask to the nearest of the other
    hd95          the larger of the two directed 95th percentiles of these distances
    surface_dice  share of both surfaces that lies within the tolerance of the other surface
    volume_error  (found - truth) / truth; None for an empty truth
    """

    dice: float
    iou: float
    hausdorff: float | None
    hd95: float | None
    surface_dice: float
    volume_error: float | None
    volume_found: float
    volume_truth: float


def agreement(found: Mask, truth: Mask, spacing: Spacing, tolerance: float = DEFAULT_TOLERANCE) -> Agreement:
    """Compare two masks (slice, row, column) on one grid with `spacing` in the same order.

    Masks of a single slice are compared as areas in a plane: their surface is the contour, and their
    volume is an area. `tolerance` of the surface Dice is in the unit of `spacing`. Distances assume
    axes at right angles; a tilted gantry is measured as if it were upright.
    Raises ValueError when the shapes differ.
    """
    if found.shape != truth.shape:
        raise ValueError(f"masks have different shapes: {found.shape} and {truth.shape}")
    scale: Sequence[float] = spacing
    if found.shape[0] == 1:
        found, truth, scale = found[0], truth[0], spacing[1:]
    n_found, n_truth = int(np.count_nonzero(found)), int(np.count_nonzero(truth))
    both = int(np.count_nonzero(found & truth))
    hausdorff: float | None = None if n_found or n_truth else 0.0
    hd95, nearby = hausdorff, 0.0 if n_found or n_truth else 1.0
    if n_found and n_truth:
        box = _joint_box(found | truth)
        hausdorff, hd95 = hausdorff_distances(found[box], truth[box], scale)
        nearby = surface_dice(found[box], truth[box], scale, tolerance)
    return Agreement(
        dice=dice(found, truth),
        iou=both / (n_found + n_truth - both) if n_found or n_truth else 1.0,
        hausdorff=hausdorff,
        hd95=hd95,
        surface_dice=nearby,
        volume_error=(n_found - n_truth) / n_truth if n_truth else None,
        volume_found=n_found * math.prod(scale),
        volume_truth=n_truth * math.prod(scale),
    )


def dice(found: Mask, truth: Mask) -> float:
    """Twice the common voxels over the sum of both masks; 1 when both are empty (Dice, 1945)."""
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(found & truth)) / total if total else 1.0


def hausdorff_distances(found: Mask, truth: Mask, spacing: Sequence[float]) -> tuple[float, float]:
    """Hausdorff distance and HD95 between the surfaces of two masks that are not empty.

    Surface voxels have a neighbour (by face; in a plane, by edge) outside the mask; what lies outside
    the grid counts as outside. Distances are between voxel centres. HD95 takes the percentile of each
    direction, interpolated linearly, and then the larger one, as MONAI does.
    """
    one, other = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (found, truth))
    directed = nearest(one, other, spacing), nearest(other, one, spacing)
    farthest, most = (max(float(np.quantile(d, q)) for d in directed) for q in (1.0, 0.95))
    return farthest, most


def surface_dice(found: Mask, truth: Mask, spacing: Sequence[float], tolerance: float) -> float:
    """Surface Dice at `tolerance` of two masks that are not empty, each of two or three dimensions.

    The surface runs between voxel centres and is weighted by its area (in a plane: its length), as
    Nikolov et al. define it: "Clinically Applicable Segmentation of Head and Neck Anatomy for
    Radiotherapy", J Med Internet Res 2021, 23(7), e26151.
    """
    one, one_area = _surface_elements(found, spacing)
    other, other_area = _surface_elements(truth, spacing)
    limit = tolerance * (1 + ROUNDING)
    within = (
        one_area[nearest(one, other, spacing) <= limit].sum()
        + other_area[nearest(other, one, spacing) <= limit].sum()
    )
    return float(within / (one_area.sum() + other_area.sum()))


def nearest(points: npt.NDArray[Any], others: npt.NDArray[Any], spacing: Sequence[float]) -> Distances:
    """Distance from each of `points` (n, axis) to the nearest of `others`; both are voxel indices."""
    tree = cKDTree(others * np.asarray(spacing))
    distances: Distances = tree.query(points * np.asarray(spacing))[0]
    return distances


def _joint_box(mask: Mask) -> tuple[slice, ...]:
    box: tuple[slice, ...] = ndimage.find_objects(mask.astype(np.uint8))[0]
    return box


def _surface_elements(mask: Mask, spacing: Sequence[float]) -> tuple[npt.NDArray[Any], Distances]:
    """Index (n, axis) and area of every corner between voxels where the surface passes.

    Each corner has 2 x 2 (x 2) voxels around it. Which of them are inside is a binary number, and a
    table tells the area of surface for it (marching cubes).
    """
    if mask.ndim == 2:
        table = np.asarray(create_table_neighbour_code_to_contour_length(spacing)[0])
    else:
        table = np.asarray(create_table_neighbour_code_to_surface_area(spacing)[0])
    padded = np.pad(mask, 1).astype(np.uint8)
    corners = list(np.ndindex(*(2,) * mask.ndim))
    code = np.zeros([n - 1 for n in padded.shape], np.uint8)
    for bit, corner in enumerate(reversed(corners)):
        part = tuple(slice(c, n - 1 + c) for c, n in zip(corner, padded.shape, strict=True))
        code |= padded[part] << bit
    index = np.nonzero((code != 0) & (code != 2 ** len(corners) - 1))
    return np.stack(index, axis=1), table[code[index]].astype(np.float64)
