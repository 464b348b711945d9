"""Turning volumes to the canonical order and back."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch

from inference.bundle import Preprocessing, ZScore
from inference.orientation import plane_of, to_canonical
from inference.preprocess import prepare, restore
from inference.volume import Volume

CANONICAL = Preprocessing(
    spatial_dims=3,
    spacing_mm=(None, None, None),
    intensity=ZScore(),
    window_size=(8, 8, 8),
    canonical=True,
)
TURNS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def affine_of(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Array axis i runs along LPS axis order[i], in the direction of its sign."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, (direction, sign) in enumerate(zip(order, signs, strict=True)):
        affine[direction, axis] = sign * (1.0 + axis)
    return affine


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_the_turned_axes_run_to_superior_posterior_and_left(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    affine = affine_of(order, signs)
    shape = (3, 4, 5)
    positions = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T
    turned = to_canonical(affine).apply(torch.from_numpy(positions).movedim(-1, 0)).numpy()
    assert (np.diff(turned[2], axis=0) > 0).all()  # slices to superior
    assert (np.diff(turned[1], axis=1) > 0).all()  # rows to posterior
    assert (np.diff(turned[0], axis=2) > 0).all()  # columns to left


@pytest.mark.parametrize(("order", "signs"), TURNS[::5])
def test_what_is_prepared_comes_back_to_its_voxels(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    voxels = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    volume = Volume(voxels, affine_of(order, signs), "arbitrary")
    box = (slice(1, 3), slice(0, 4), slice(2, 5))
    image = prepare(volume, CANONICAL, box)
    back = restore(image.image[None], image)[0].numpy()
    inside = voxels[box]
    assert np.allclose(back, (inside - inside.mean()) / inside.std(ddof=1), atol=1e-4)


def test_the_plane_is_that_of_the_slices() -> None:
    planes = {2: "axial", 1: "coronal", 0: "sagittal"}
    for order, signs in TURNS:
        volume = Volume(np.zeros((2, 2, 2), np.float32), affine_of(order, signs), "arbitrary")
        assert plane_of(volume) == planes[order[0]]
