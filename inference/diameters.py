"""Diameters of a set of pixels or voxels by way of its convex hull: exact, and fast for organs too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

MOST_PAIRED = 64
"""Of so many points in a plane all pairs take less time than their convex hull."""
MOST_PAIRED_IN_SPACE = 400
"""Of so many points in space."""
DIRECTIONS = 8
"""In which the width of a plane figure is taken: its diameter is at most 1.02 times the largest width."""

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def largest_length(mask: Mask, grid_to_mm: Points, places: Sequence[float] | None = None) -> float | None:
    """The length in millimetres of the longest line between two centres of `mask` (slice, row, column).

    `grid_to_mm` (3, 3) maps indices to millimetres; `places` are those along the first axis where they
    are not 0, 1, 2, ... None when the mask is a single voxel.
    """
    ends = _ends_along_all_axes(run_ends(mask)).astype(np.float64)
    if places is not None:
        ends[:, 0] = np.asarray(places)[ends[:, 0].astype(int)]
    return longest_length(ends @ grid_to_mm.T, MOST_PAIRED_IN_SPACE)


def longest_length(points: Points, most_paired: int = MOST_PAIRED) -> float | None:
    """The largest distance between two of `points` (point, axis); None where there is but one."""
    if len(points) < 2:
        return None
    if len(points) > most_paired:
        points = hull_corners(points)
    return float(pdist(points).max())


def longest_line(corners: Points) -> Points | None:
    """Ends (2, n) of the longest line between two of `corners`; None where there is but one."""
    if len(corners) < 2:
        return None
    distances = squareform(pdist(corners))
    return corners[list(np.unravel_index(distances.argmax(), distances.shape))]


def longest_perpendicular(corners: Points, line: Points) -> Points | None:
    """Ends (2, 2) of the longest chord perpendicular to `line` of the convex polygon with these corners.

    The chord length is piecewise linear along the line with breaks at the corners, so its maximum lies at
    one. None when the polygon has no width across the line.
    """
    along = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    across = np.array([-along[1], along[0]])
    t, w = (corners - line[0]) @ along, (corners - line[0]) @ across
    if np.ptp(w) < 1e-9:
        return None
    upper, lower = _envelope(t, w), -_envelope(t, -w)
    widest = int(np.argmax(upper - lower))
    middle = line[0] + t[widest] * along
    return np.stack([middle + lower[widest] * across, middle + upper[widest] * across])


def run_ends(mask: Mask) -> Indices:
    """First and last voxel of every run along columns, in order: the convex hull needs no others."""
    occupied = mask.any(axis=-1)
    rows = np.argwhere(occupied)
    lines = mask[occupied]
    first = lines.argmax(axis=-1)
    last = lines.shape[-1] - 1 - lines[:, ::-1].argmax(axis=-1)
    both = np.column_stack([np.repeat(rows, 2, axis=0), np.column_stack([first, last]).ravel()])
    single = np.zeros(len(both), dtype=bool)
    single[1::2] = first == last
    return both[~single]


def _ends_along_all_axes(ends: Indices) -> Indices:
    """Those of `ends` that are the first or the last of them along rows, and along slices, too.

    A corner of the convex hull ends its run along each axis: nothing lies on both sides of it.
    """
    for axis, (a, b) in ((1, (0, 2)), (0, (1, 2))):
        line = ends[:, a] * (int(ends[:, b].max()) + 1) + ends[:, b]
        first, last = np.full(line.max() + 1, np.iinfo(np.int64).max), np.full(line.max() + 1, -1)
        np.minimum.at(first, line, ends[:, axis])
        np.maximum.at(last, line, ends[:, axis])
        ends = ends[(ends[:, axis] == first[line]) | (ends[:, axis] == last[line])]
    return ends


def diameter_bounds(points: Points, starts: Indices) -> tuple[Points, Points]:
    """Lengths that the longest line of each plane figure reaches, and does not exceed.

    `points` (point, 2) are those of all figures, one after the other; each begins at one of `starts`.
    No line is shorter than a width, and every line lies within half an angle of one of the directions.
    """
    angles = np.arange(DIRECTIONS) * (np.pi / DIRECTIONS)
    along = points @ np.stack([np.cos(angles), np.sin(angles)])
    widths = np.maximum.reduceat(along, starts) - np.minimum.reduceat(along, starts)
    widest: Points = widths.max(axis=1)
    return widest, widest / np.cos(np.pi / (2 * DIRECTIONS))


def hull_corners(points: Points) -> Points:
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
