"""The surface is that of the mesh that marching cubes make, on any mask and any grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import marching_cubes, mesh_surface_area

from inference.diameters import Mask, Points
from inference.surface import surface_area


def of_the_mesh(mask: Mask, grid_to_mm: Points, places: Points) -> float:
    """`places` are those of the slices, and of one more before and behind them."""
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    steps = vertices.astype(np.float64)
    steps[:, 0] = np.interp(steps[:, 0], np.arange(len(places)), places)
    return float(mesh_surface_area(steps @ grid_to_mm.T, faces))


@settings(max_examples=200, deadline=None)
@given(
    mask=arrays(np.bool_, st.tuples(*[st.integers(1, 6)] * 3)),
    seed=st.integers(0, 2**32 - 1),
    uneven=st.booleans(),
)
def test_any_surface_is_that_of_its_mesh(mask: Mask, seed: int, uneven: bool) -> None:
    if not mask.any():
        return
    chance = np.random.default_rng(seed)
    grid_to_mm = chance.normal(size=(3, 3)) + 2.0 * np.eye(3)
    gaps = chance.uniform(0.5, 2.0, len(mask) + 1) if uneven else np.ones(len(mask) + 1)
    places = np.concatenate([[0.0], np.cumsum(gaps)])
    expected = of_the_mesh(mask, grid_to_mm, places)
    assert surface_area(mask, grid_to_mm, gaps) == pytest.approx(expected, rel=1e-6)


def test_a_single_voxel_has_the_surface_of_an_octahedron() -> None:
    octahedron = 8 * np.sqrt(3) / 4 * np.sqrt(0.5) ** 2
    assert surface_area(np.ones((1, 1, 1), bool), np.eye(3), [1.0, 1.0]) == pytest.approx(octahedron)
