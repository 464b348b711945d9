"""Quick ways to diameters give what the plain ones give, on any mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from inference.diameters import Points, _envelope, _hull_corners, longest_length, longest_line

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
    corners = _hull_corners(points)
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
    to_mm = np.diag([0.7, 0.8])
    length, line = longest_length(mask, to_mm), longest_line(mask, to_mm)
    if line is None:
        assert length is None
        return
    assert length is not None
    assert abs(length - float(np.linalg.norm(line[1] - line[0]))) < 1e-9
    if side < 50:
        assert abs(length - float(pdist(np.argwhere(mask) @ to_mm).max())) < 1e-9
