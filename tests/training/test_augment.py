"""Random changes of windows: one geometric change for image and truth, grey levels for the image alone."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms.utils import create_rotate

from training.augment import Augmenter, reach
from training.config import Augmentation, Axis

STILL: dict[str, Any] = {"rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0, "noise": 0.0}


def ramp(*size: int) -> dict[str, torch.Tensor]:
    """Every voxel of the image has its own value; the truth is where that is high."""
    image = torch.arange(math.prod(size), dtype=torch.float32).reshape(1, *size) / math.prod(size)
    return {"image": image, "truth": (image > 0.6).float(), "ignored": (image < 0.2).float()}


def ball(size: tuple[int, ...], channels: int = 1) -> dict[str, torch.Tensor]:
    """A bright ball off the centre on a dark ground, labelled and (so that it is followed) ignored."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    far = sum(((axis - 0.42 * n) ** 2 for axis, n in zip(axes, size, strict=True)), torch.zeros(size)).sqrt()
    inside = (far < 0.22 * min(size)).float()
    return {"image": inside.expand(channels, *size).clone(), "truth": inside[None], "ignored": inside[None]}


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("outside", ["edge", "mirror"])
@pytest.mark.parametrize("size", [(32, 32), (31, 40), (12, 16, 20)])
def test_without_changes_a_window_is_what_was_cut(size: tuple[int, ...], outside: Any) -> None:
    change = Augmentation(**STILL, outside=outside)
    assert reach(change, size) == size
    changed = Augmenter(change, size)(ramp(*size), np.random.default_rng(0))
    for key, before in ramp(*size).items():
        torch.testing.assert_close(changed[key], before, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        Augmentation(),
        Augmentation(rotate_degrees=180.0, scale=0.3, mirror=("slice", "row", "column"), quarter_turns=True),
        Augmentation(rotate_degrees=20.0, scale=0.2, shift=0.1, noise=0.1, contrast=0.3, blur_px=1.0),
    ],
)
@pytest.mark.parametrize(("window", "channels"), [((48, 48), 3), ((24, 32, 32), 1)])
def test_image_truth_and_ignored_take_the_same_turn(
    change: Augmentation, window: tuple[int, ...], channels: int
) -> None:
    augmenter = Augmenter(change, window)
    rng = np.random.default_rng(1)
    places = set()
    for _ in range(12):
        changed = augmenter(ball(reach(change, window), channels), rng)
        assert changed["image"].shape == (channels, *window)
        assert changed["truth"].shape == changed["ignored"].shape == (1, *window)
        bright = changed["image"] > changed["image"].amax() / 2
        truth = changed["truth"] > 0.5
        assert all(dice(channel, truth[0]) > 0.9 for channel in bright)
        assert torch.equal(changed["truth"], changed["ignored"])
        assert set(changed["truth"].flatten().tolist()) <= {0.0, 1.0}
        places.add(tuple(truth.nonzero().float().mean(dim=0).round(decimals=2).tolist()))
    assert len(places) == 12, "and each time another one"


def test_the_changes_are_a_function_of_the_generator() -> None:
    change = Augmentation(contrast=0.3, blur_px=1.0, mirror=("row", "column"), quarter_turns=True)
    augmenter = Augmenter(change, (24, 24))
    cut = ball(reach(change, (24, 24)))
    one, same, other = (augmenter(dict(cut), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["image"], other["image"])
    assert torch.equal(
        Augmenter(change, (24, 24))(dict(cut), np.random.default_rng(5))["image"], one["image"]
    )


def flips_seen(size: tuple[int, ...], mirror: tuple[Axis, ...]) -> set[tuple[int, ...]]:
    """The sets of axes along which some windows came out mirrored, and nothing else."""
    augmenter = Augmenter(Augmentation(**STILL, mirror=mirror), size)
    seen = set()
    for seed in range(60):
        changed = augmenter(ramp(*size), np.random.default_rng(seed))
        matching = [
            axes
            for choice in product((False, True), repeat=len(size))
            for axes in [tuple(axis for axis, flip in enumerate(choice) if flip)]
            if all(
                torch.allclose(changed[key], part.flip([axis + 1 for axis in axes]), atol=1e-4)
                for key, part in ramp(*size).items()
            )
        ]
        assert len(matching) == 1
        seen.add(matching[0])
    return seen


def test_windows_are_mirrored_along_the_named_axes_only() -> None:
    assert flips_seen((12, 16), ()) == {()}
    assert flips_seen((12, 16), ("row",)) == {(), (0,)}
    assert flips_seen((12, 16), ("column",)) == {(), (1,)}
    assert flips_seen((6, 12, 16), ("slice", "column")) == {(), (0,), (2,), (0, 2)}


@pytest.mark.parametrize("size", [(16, 16), (5, 16, 16)])
def test_quarter_turns_are_all_four_and_in_the_plane(size: tuple[int, ...]) -> None:
    augmenter = Augmenter(Augmentation(**STILL, quarter_turns=True), size)
    seen = set()
    for seed in range(40):
        changed = augmenter(ramp(*size), np.random.default_rng(seed))
        turns = [
            k
            for k in range(4)
            if all(
                torch.allclose(changed[n], p.rot90(k, (-2, -1)), atol=1e-4) for n, p in ramp(*size).items()
            )
        ]
        assert len(turns) == 1
        seen.add(turns[0])
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("option", "value"), [("shift", 0.3), ("noise", 0.3), ("contrast", 0.5), ("blur_px", 2.0)]
)
def test_grey_levels_change_in_the_image_alone(option: str, value: float) -> None:
    augmenter = Augmenter(Augmentation(**STILL | {option: value}), (32, 32))
    changed = [augmenter(ramp(32, 32), np.random.default_rng(seed)) for seed in range(20)]
    before = ramp(32, 32)
    assert any(not torch.allclose(window["image"], before["image"], atol=1e-3) for window in changed)
    for window in changed:
        assert torch.equal(window["truth"], before["truth"])
        assert torch.equal(window["ignored"], before["ignored"])


def test_shift_and_noise_are_as_strong_as_asked_for() -> None:
    flat = {key: torch.zeros(1, 32, 32) for key in ("image", "truth", "ignored")}
    shifting = Augmenter(Augmentation(**STILL | {"shift": 0.3}), (32, 32))
    noisy = Augmenter(Augmentation(**STILL | {"noise": 0.3}), (32, 32))
    shifts = [shifting(dict(flat), np.random.default_rng(k))["image"].mean().item() for k in range(300)]
    noises = [noisy(dict(flat), np.random.default_rng(k))["image"].std().item() for k in range(100)]
    assert np.std(shifts) == pytest.approx(0.3, rel=0.15)
    assert 0.2 < max(noises) < 0.33


@pytest.mark.parametrize("window", [(32, 32), (32, 96), (96, 32), (40, 56, 40), (16, 64, 64)])
@pytest.mark.parametrize("degrees", [0.0, 15.0, 30.0, 90.0, 180.0])
def test_a_cut_holds_every_turned_and_zoomed_window(window: tuple[int, ...], degrees: float) -> None:
    """By the rotations that MONAI makes: in 3-D half as far out of the plane of the slices."""
    change = Augmentation(rotate_degrees=degrees, scale=0.2)
    room = np.array(reach(change, window)) / 2
    corners = np.array(list(product(*((-n / 2, n / 2) for n in window)))).T
    rng = np.random.default_rng(0)
    dims = len(window)
    angle = math.radians(degrees)
    most = np.array([angle] if dims == 2 else [angle, angle / 2, angle / 2])
    outside = 0.0
    for _ in range(400):
        radians = rng.uniform(-most, most)
        turn = np.asarray(create_rotate(dims, radians.tolist() if dims == 3 else float(radians[0])))
        places = np.abs(turn[:dims, :dims] @ (corners * rng.uniform(0.8, 1.2, (dims, 1))))
        outside = max(outside, float((places / room[:, None]).max()))
    assert outside <= (1.0 if dims == 2 else 1.05)
    if degrees in (0.0, 180.0):
        assert outside > 0.85, "but is not much wider than that"
