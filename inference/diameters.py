"""Diameters of a set of pixels or voxels between their centres: exact, and fast for organs too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

MOST_PAIRED = 64
"""Of so many points in a plane all pairs take less time than their convex hull."""
MOST_PAIRED_IN_SPACE = 400
"""Of so many points in space."""
DIRECTIONS = 8
"""In which the width of a plane figure is taken: its diameter is at most 1.02 times the largest width."""
SAME_PLACE_MM = 1e-9
"""Far more than what rounding does to a place along a line, far less than a pixel."""
MOST_AT_ONCE = 2**20
"""Pairs of an edge and a place: each takes some 50 bytes, and a ragged border has tens of millions."""

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


def longest_perpendicular(edges: Points, line: Points) -> Points | None:
    """Ends (2, 2) of the longest line perpendicular to `line` between two points of `edges` (edge, 2, 2).

    What lies between them need not be inside, as with the longest line itself. The height of edges above
    and below `line` is piecewise linear along it with breaks at their ends, so its maximum lies at one.
    None when no such line has a length.
    """
    along = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    across = np.array([-along[1], along[0]])
    t, w = (edges - line[0]) @ along, (edges - line[0]) @ across
    places = np.unique(t)
    lower, upper = _heights(t, w, places)
    widest = int(np.argmax(np.round(upper - lower, 6)))
    if upper[widest] - lower[widest] < 1e-6:
        return None
    middle = line[0] + places[widest] * along
    return np.stack([middle + lower[widest] * across, middle + upper[widest] * across])


def border_edges(plane: Mask) -> Indices:
    """Lines (edge, end, row and column) between the centres of neighbours along the border of `plane`.

    Neighbours have a side or a corner in common; a pixel is also an edge of its own without a length.
    """
    border = np.pad(plane & ~ndimage.binary_erosion(plane), 1)
    pixels = np.argwhere(border)
    steps = np.array([(0, 0), (0, 1), (1, -1), (1, 0), (1, 1)])
    starts = np.repeat(pixels, len(steps), axis=0)
    ends = starts + np.tile(steps, (len(pixels), 1))
    is_edge = border[ends[:, 0], ends[:, 1]]
    return np.stack([starts[is_edge], ends[is_edge]], axis=1) - 1


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


def _heights(t: Points, w: Points, places: Points) -> tuple[Points, Points]:
    """Lowest and highest point of edges from (t, w)[:, 0] to (t, w)[:, 1] at each of the sorted `places`.

    Every place must be an end of an edge. Each edge is looked at where it is and nowhere else, and not many
    at once.
    """
    first = np.searchsorted(places, t.min(axis=1) - SAME_PLACE_MM, "left")
    count = np.searchsorted(places, t.max(axis=1) + SAME_PLACE_MM, "right") - first
    span = t[:, 1] - t[:, 0]
    span[np.abs(span) < SAME_PLACE_MM] = np.inf  # it lies across, and its ends are edges of their own
    lower, upper = np.full(len(places), np.inf), np.full(len(places), -np.inf)
    pairs = np.cumsum(count)
    cuts = np.searchsorted(pairs, np.arange(MOST_AT_ONCE, pairs[-1], MOST_AT_ONCE))
    for some in np.split(np.arange(len(t)), cuts):
        edge = np.repeat(some, count[some])
        begin = np.cumsum(count[some]) - count[some]
        place = np.arange(len(edge)) + np.repeat(first[some] - begin, count[some])
        share = (places[place] - t[edge, 0]) / span[edge]
        height = w[edge, 0] + np.clip(share, 0.0, 1.0) * (w[edge, 1] - w[edge, 0])
        np.minimum.at(lower, place, height)
        np.maximum.at(upper, place, height)
    return lower, upper
