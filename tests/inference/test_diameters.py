"""Quick ways to diameters give what the plain ones give, on any mask."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from inference.diameters import (
    MOST_PAIRED_IN_SPACE,
    Mask,
    Points,
    _ends_along_all_axes,
    border_edges,
    diameter_bounds,
    hull_corners,
    largest_length,
    longest_length,
    longest_line,
    longest_perpendicular,
    run_ends,
)

SEEDS = st.integers(0, 2**32 - 1)


def pair_by_pair(mask: Mask, spacing: Points, line: Points) -> float:
    """The longest perpendicular as it is defined: all neighbours, not only of the border, at each centre."""
    along = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    centres = np.argwhere(mask)
    t, w = (centres * spacing - line[0]) @ along, (centres * spacing - line[0]) @ [-along[1], along[0]]
    beside = np.abs(centres[:, None] - centres).max(axis=2) <= 1
    longest = 0.0
    for place in t:
        heights = []
        for a, b in np.argwhere(beside):
            if abs(t[a] - place) < 1e-9:
                heights.append(w[a])
            elif t[a] < place < t[b]:
                heights.append(w[a] + (place - t[a]) / (t[b] - t[a]) * (w[b] - w[a]))
        longest = max(longest, np.ptp(heights))
    return longest


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, side=st.integers(2, 9), share=st.sampled_from([0.2, 0.5, 0.9]))
def test_the_longest_perpendicular_is_that_of_all_neighbours(seed: int, side: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((side, side)) < share
    spacing = np.array([0.7, 0.8])
    line = longest_line(hull_corners(run_ends(mask) * spacing))
    if line is None:
        return
    expected = pair_by_pair(mask, spacing, line)
    found = longest_perpendicular(border_edges(mask) * spacing, line)
    if found is None:
        assert expected == pytest.approx(0.0, abs=1e-6)
        return
    assert np.linalg.norm(found[1] - found[0]) == pytest.approx(expected)
    assert (found[1] - found[0]) @ (line[1] - line[0]) == pytest.approx(0.0, abs=1e-9)
    to_centres = np.linalg.norm(found[:, None] - np.argwhere(mask) * spacing, axis=2)
    assert np.all(to_centres.min(axis=1) <= np.hypot(*spacing) / 2 + 1e-9), "an end is off the outline"


@pytest.mark.parametrize("radius, share", [(6, 0.5), (12, 0.7), (25, 0.9)])
def test_the_axes_of_an_ellipse_are_a_pixel_shorter_than_the_ellipse_however_it_lies(
    radius: int, share: float
) -> None:
    short = []
    for angle in np.linspace(0.0, np.pi, 25):
        y, x = np.mgrid[-30:31, -30:31]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        mask = (along / radius) ** 2 + (across / radius / share) ** 2 <= 1.0
        line = longest_line(hull_corners(run_ends(mask).astype(np.float64)))
        assert line is not None
        found = longest_perpendicular(border_edges(mask).astype(np.float64), line)
        assert found is not None
        short.append(np.linalg.norm(found[1] - found[0]) - 2 * radius * share)
    assert np.median(short) == pytest.approx(-0.75, abs=0.3)
    assert np.ptp(short) < 1.8


def ragged_ellipse(side: int) -> Mask:
    """Half of the pixels of an ellipse that lies obliquely: nearly all are border, each at its own place."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    ellipse: Mask = ((x + 0.37 * y) / (0.55 * side)) ** 2 + ((y - 0.37 * x) / (0.3 * side)) ** 2 <= 1.0
    return ellipse & (np.random.default_rng(0).random((side, side)) < 0.5)


def test_a_ragged_border_takes_little_memory() -> None:
    mask, spacing = ragged_ellipse(256), np.array([0.7, 0.83])
    line, edges = longest_line(hull_corners(run_ends(mask) * spacing)), border_edges(mask) * spacing
    assert line is not None
    tracemalloc.start()
    try:
        assert longest_perpendicular(edges, line) is not None
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100 * 2**20


def test_edges_in_portions_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, spacing = ragged_ellipse(40), np.array([0.7, 0.83])
    line, edges = longest_line(hull_corners(run_ends(mask) * spacing)), border_edges(mask) * spacing
    assert line is not None
    at_once = longest_perpendicular(edges, line)
    monkeypatch.setattr("inference.diameters.MOST_AT_ONCE", 3)
    in_portions = longest_perpendicular(edges, line)
    assert at_once is not None and in_portions is not None
    np.testing.assert_array_equal(in_portions, at_once)


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
