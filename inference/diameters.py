"""Diameters of a set of pixels or voxels by way of its convex hull: exact, and fast for organs too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

MOST_PAIRED = 64
"""Of so many points all pairs take less time than their convex hull."""

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def longest_line(mask: Mask, grid_to_mm: Points, places: Sequence[float] | None = None) -> Points | None:
    """Ends (2, n) in millimetres of the longest line between two centres of `mask` (n axes).

    `grid_to_mm` (n, n) maps indices to millimetres; `places` are those along the first axis where they
    are not 0, 1, 2, ... None when the mask is a single voxel.
    """
    ends = _run_ends(mask)
    if places is not None:
        ends[:, 0] = np.asarray(places)[ends[:, 0].astype(int)]
    corners = _hull_corners(ends @ grid_to_mm.T)
    if len(corners) < 2:
        return None
    distances = squareform(pdist(corners))
    return corners[list(np.unravel_index(distances.argmax(), distances.shape))]


def longest_length(mask: Mask, grid_to_mm: Points) -> float | None:
    """The length in millimetres of `longest_line`; quicker for the small outlines that lesions have."""
    ends = _run_ends(mask) @ grid_to_mm.T
    if len(ends) < 2:
        return None
    if len(ends) > MOST_PAIRED:
        ends = _hull_corners(ends)
    return float(pdist(ends).max())


def longest_perpendicular(mask: Mask, grid_to_mm: Points, line: Points) -> Points | None:
    """Ends (2, 2) in millimetres of the longest chord of the mask's hull perpendicular to `line`.

    Two axes only. The chord length is piecewise linear along the line with breaks at the corners of
    the hull, so its maximum lies at a corner. None when the mask has no width across the line.
    """
    corners = _hull_corners(_run_ends(mask) @ grid_to_mm.T)
    along = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    across = np.array([-along[1], along[0]])
    t, w = (corners - line[0]) @ along, (corners - line[0]) @ across
    if np.ptp(w) < 1e-9:
        return None
    upper, lower = _envelope(t, w), -_envelope(t, -w)
    widest = int(np.argmax(upper - lower))
    middle = line[0] + t[widest] * along
    return np.stack([middle + lower[widest] * across, middle + upper[widest] * across])


def _run_ends(mask: Mask) -> Points:
    """First and last voxel of every run along columns: the convex hull needs no others."""
    occupied = mask.any(axis=-1)
    rows = np.argwhere(occupied)
    lines = mask[occupied]
    first = lines.argmax(axis=-1)
    last = lines.shape[-1] - 1 - lines[:, ::-1].argmax(axis=-1)
    both = np.column_stack([np.repeat(rows, 2, axis=0), np.column_stack([first, last]).ravel()])
    single = np.zeros(len(both), dtype=bool)
    single[1::2] = first == last
    return both[~single].astype(np.float64)


def longest_possible(mask: Mask, spacing_mm: Points) -> Points:
    """For each slice of `mask` a length in millimetres that no line between two of its centres exceeds."""
    extents = []
    for axis, spacing in ((2, spacing_mm[0]), (1, spacing_mm[1])):
        occupied: Mask = np.any(mask, axis=axis)
        last = occupied.shape[1] - 1 - occupied[:, ::-1].argmax(axis=1)
        extents.append((last - occupied.argmax(axis=1)) * spacing)
    longest: Points = np.hypot(*extents)
    return longest


def _hull_corners(points: Points) -> Points:
    """Corners of the convex hull; the points themselves where they are flat or few."""
    try:
        corners: Points = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return points
    return corners


def _envelope(t: Points, w: Points) -> Points:
    """Height of the convex polygon's upper boundary above each of its own abscissas `t`: edges by rows."""
    t_a, w_a = t[:, None], w[:, None]
    t_b, w_b = np.roll(t_a, -1, axis=0), np.roll(w_a, -1, axis=0)
    low, high = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    is_across = high - low < 1e-9
    slope_over = np.where(is_across, 1.0, t_b - t_a)
    heights = w_a + (np.clip(t, low, high) - t_a) * (w_b - w_a) / slope_over
    heights = np.where(is_across, np.maximum(w_a, w_b), heights)
    is_above = (t >= low - 1e-9) & (t <= high + 1e-9)
    upper: Points = np.where(is_above, heights, -np.inf).max(axis=0)
    return upper
