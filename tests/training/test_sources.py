"""Cases on the model's grid: exactly what inference would see, with a truth that lies on it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from inference.bundle import Preprocessing, Window, ZScore
from inference.preprocess import prepare, restore
from inference.volume import Volume
from training.cases import Case, LoadedCase
from training.sources import to_source

CASE = Case("a", "P1", "train")


def how(*spacing_mm: float | None, **changes: Any) -> Preprocessing:
    slice_mm, row_mm, column_mm = spacing_mm or (None, None, None)
    settings: dict[str, Any] = {
        "spatial_dims": 3,
        "spacing_mm": (slice_mm, row_mm, column_mm),
        "intensity": Window(low=0.0, high=200.0),
        "window_size": (16, 16, 16),
    } | changes
    return Preprocessing(**settings)


def ball_case(affine: np.ndarray | None = None, labels: int = 1) -> LoadedCase:
    """A bright ball with a darker shell as label 2, and an ignored corner, in noise."""
    rng = np.random.default_rng(3)
    z, y, x = np.ogrid[:20, :36, :40]
    distance = np.sqrt((2 * (z - 11.0)) ** 2 + (y - 14.0) ** 2 + (x - 24.0) ** 2)
    truth = (distance <= 10).astype(np.uint8)
    if labels == 2:
        truth[(distance > 6) & (truth > 0)] = 2
    voxels = np.choose(truth, (20, 180, 100)) + rng.normal(0, 5, truth.shape)
    ignored = np.zeros(truth.shape, np.bool_)
    ignored[:4, :8, :8] = True
    affine = np.diag([2.0, 1.0, 1.0, 1.0]) if affine is None else affine
    return LoadedCase(CASE, Volume(voxels.astype(np.float32), affine, "arbitrary"), truth, ignored)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize(
    "preprocessing",
    [
        how(),
        how(2.0, 0.7, 1.3, intensity=ZScore(foreground=True)),
        how(None, None, None, longest_side_px=50),
        how(1.5, 1.5, 1.5, canonical=True),
    ],
)
def test_the_image_is_the_very_one_that_inference_prepares(preprocessing: Preprocessing) -> None:
    affine = np.array([[0, 0, -1.0, 5], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1.0]])
    loaded = ball_case(affine)
    source = to_source(loaded, preprocessing, 1)
    expected = prepare(loaded.volume, preprocessing).image.numpy()
    np.testing.assert_array_equal(source.image, expected)
    assert source.image.shape == source.truth.shape == source.ignored.shape
    assert [str(part.dtype) for part in (source.image, source.truth, source.ignored)] == [
        "float32",
        "uint8",
        "bool",
    ]


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.0, 1.0), (3.0, 1.5, 1.5), (1.0, 0.6, 0.8), (2.5, 2.0, 0.9)])
@pytest.mark.parametrize("label", [1, 2])
def test_truth_that_is_resampled_and_brought_back_is_the_truth(
    spacing_mm: tuple[float, float, float], label: int
) -> None:
    loaded = ball_case(labels=label)
    preprocessing = how(*spacing_mm)
    source = to_source(loaded, preprocessing, label)
    image = prepare(loaded.volume, preprocessing)
    back = restore(torch.from_numpy((source.truth > 0).astype(np.float32))[None], image)[0].numpy() >= 0.5
    assert dice(back, loaded.truth > 0) > 0.9
    assert dice(source.truth > 0, source.image > 0.3) > 0.9, "and lies where the ball is seen"


def test_labels_keep_their_numbers_and_one_that_is_not_asked_for_is_background() -> None:
    loaded = ball_case(labels=2)
    both, first = (to_source(loaded, how(), labels) for labels in (2, 1))
    np.testing.assert_array_equal(both.truth, loaded.truth)
    np.testing.assert_array_equal(first.truth, loaded.truth == 1)
    np.testing.assert_array_equal(both.ignored, loaded.ignored)


TURNS = [
    (order, signs) for order in permutations(range(3)) for signs in ((1, 1, 1), (-1, 1, -1), (-1, -1, 1))
]


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_a_canonical_turn_moves_image_truth_and_ignored_alike(
    order: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    upright = ball_case(np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1.0]]), labels=2)
    stored: list[Any] = [
        part.transpose(order) for part in (upright.volume.voxels, upright.truth, upright.ignored)
    ]
    affine = upright.volume.affine[:, [*order, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            stored = [np.flip(part, axis) for part in stored]
            affine[:3, 3] += affine[:3, axis] * (stored[0].shape[axis] - 1)
            affine[:, axis] *= -1
    voxels, truth, ignored = stored
    lying = LoadedCase(CASE, Volume(voxels.copy(), affine, "arbitrary"), truth.copy(), ignored.copy())
    expected, turned = (to_source(case, how(canonical=True), 2) for case in (upright, lying))
    for part in ("image", "truth", "ignored"):
        np.testing.assert_array_equal(getattr(turned, part), getattr(expected, part))
    assert turned.slice_mm == pytest.approx(2.0)


def test_the_distance_of_slices_is_that_on_the_models_grid_and_unknown_without_geometry() -> None:
    assert to_source(ball_case(), how(4.0, None, None), 1).slice_mm == pytest.approx(4.0)
    assert to_source(ball_case(), how(), 1).slice_mm == pytest.approx(2.0)
    loaded = ball_case()
    flat = Volume(loaded.volume.voxels, None, "grey")
    assert to_source(LoadedCase(CASE, flat, loaded.truth, loaded.ignored), how(), 1).slice_mm is None
