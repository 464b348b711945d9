"""Quick ways to diameters give what the plain ones give, on any mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from inference.diameters import (
    MOST_PAIRED_IN_SPACE,
    Points,
    _ends_along_all_axes,
    _envelope,
    diameter_bounds,
    hull_corners,
    largest_length,
    longest_length,
    longest_line,
    run_ends,
)

SEEDS = st.integers(0, 2**32 - 1)


def edge_by_edge(t: Points, w: Points) -> Points:
    """The upper boundary as it is defined."""
    heights = np.full_like(t, -np.inf)
    for a in range(len(t)):
        b = (a + 1) % len(t)
        low, high = min(t[a], t[b]), max(t[a], t[b])
        inside = (t >= low - 1e-9) & (t <= high + 1e-9)
        if high - low < 1e-9:
            height = np.full_like(t, max(w[a], w[b]))
        else:
            height = w[a] + (np.clip(t, low, high) - t[a]) * (w[b] - w[a]) / (t[b] - t[a])
        heights = np.where(inside, np.maximum(heights, height), heights)
    return heights


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, count=st.integers(3, 40), whole=st.booleans())
def test_the_boundary_is_that_of_all_edges_bit_by_bit(seed: int, count: int, whole: bool) -> None:
    chance = np.random.default_rng(seed)
    points = chance.integers(0, 9, (count, 2)).astype(np.float64) if whole else chance.normal(size=(count, 2))
    corners = hull_corners(points)
    t, w = corners[:, 0], corners[:, 1]
    assert np.array_equal(_envelope(t, w), edge_by_edge(t, w))
    assert np.array_equal(_envelope(t, -w), edge_by_edge(t, -w))


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, side=st.sampled_from([1, 2, 5, 20, 90]), share=st.sampled_from([0.01, 0.3, 1.0]))
def test_the_longest_length_is_that_of_the_longest_line_and_of_all_pairs(
    seed: int, side: int, share: float
) -> None:
    mask = np.random.default_rng(seed).random((side, side)) < share
    mask[0, 0] = True
    spacing = np.array([0.7, 0.8])
    points = run_ends(mask) * spacing
    length, line = longest_length(points), longest_line(hull_corners(points))
    if line is None:
        assert length is None
        return
    assert length is not None
    assert abs(length - float(np.linalg.norm(line[1] - line[0]))) < 1e-9
    if side < 50:
        assert abs(length - float(pdist(np.argwhere(mask) * spacing).max())) < 1e-9


@settings(deadline=None, max_examples=200)
@given(
    seed=SEEDS,
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    share=st.sampled_from([0.01, 0.3, 1.0]),
    uneven=st.booleans(),
)
def test_the_largest_length_in_space_is_that_of_all_pairs_of_voxels(
    seed: int, shape: tuple[int, int, int], share: float, uneven: bool
) -> None:
    chance = np.random.default_rng(seed)
    mask = chance.random(shape) < share
    mask[tuple(chance.integers(0, shape))] = True
    grid_to_mm = chance.normal(size=(3, 3)) + 2.0 * np.eye(3)
    places = np.cumsum(chance.uniform(0.5, 2.0, shape[0])) if uneven else np.arange(shape[0])
    voxels = np.argwhere(mask).astype(np.float64)
    voxels[:, 0] = places[voxels[:, 0].astype(int)]
    length = largest_length(mask, grid_to_mm, places.tolist() if uneven else None)
    expected = float(pdist(voxels @ grid_to_mm.T).max(initial=0.0))
    assert (length or 0.0) == pytest.approx(expected, rel=1e-12)


def test_the_largest_length_of_an_organ_comes_from_its_hull() -> None:
    """Ends of a ball: too many for all pairs, and known."""
    radius = 40
    offsets = np.mgrid[(slice(-radius, radius + 1),) * 3]
    ball = np.square(offsets).sum(axis=0) <= radius**2
    assert len(_ends_along_all_axes(run_ends(ball))) > MOST_PAIRED_IN_SPACE
    assert largest_length(ball, np.diag([1.0, 0.5, 0.5])) == pytest.approx(2.0 * radius, rel=1e-12)


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, counts=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_the_longest_line_of_each_figure_lies_between_its_bounds(seed: int, counts: list[int]) -> None:
    chance = np.random.default_rng(seed)
    figures = [chance.normal(size=(count, 2)) * chance.uniform(0.1, 5.0, 2) for count in counts]
    starts = np.cumsum([0, *counts[:-1]])
    for figure, low, high in zip(figures, *diameter_bounds(np.concatenate(figures), starts), strict=True):
        longest = float(pdist(figure).max(initial=0.0))
        assert low - 1e-9 <= longest <= high + 1e-9
        assert high <= 1.02 * low
