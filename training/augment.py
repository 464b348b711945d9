"""Random changes of a training window, by MONAI's transforms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from monai.data.meta_obj import set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandRotate90d,
    RandShiftIntensityd,
)

from training.config import Augmentation, Axis

Rng = np.random.Generator

AXES: tuple[Axis, ...] = ("slice", "row", "column")
MASKS = ("truth", "ignored")
EVERYTHING = ("image", *MASKS)


class Augmenter:
    """Turns an enlarged cut of a case into a training window of `window_size`.

    `image` (channel, ...) float32, `truth` and `ignored` (1, ...) float32 with 2 or 3 spatial axes.
    """

    def __init__(self, change: Augmentation, window_size: tuple[int, ...]) -> None:
        """Build the transforms once; each call draws anew."""
        set_track_meta(False)  # the place in the patient plays no part here
        self.window_size = window_size
        self.transforms = Compose([*_shapes(change, window_size), *_grey_levels(change)])

    def __call__(self, cut: dict[str, torch.Tensor], rng: Rng) -> dict[str, torch.Tensor]:
        """The changes are a function of `rng` alone."""
        self.transforms.set_random_state(seed=int(rng.integers(2**31)))
        changed: dict[str, torch.Tensor] = self.transforms(cut)
        return changed


def reach(change: Augmentation, window_size: tuple[int, ...]) -> tuple[int, ...]:
    """Size of the cut that a turned and zoomed window needs, per axis.

    A turned axis takes in the more of the others, the longer they are.
    """
    sizes = []
    for axis, own in enumerate(window_size):
        others = math.hypot(*window_size[:axis], *window_size[axis + 1 :])
        angle = min(math.radians(change.rotate_degrees), math.atan2(others, own))
        turned = own * math.cos(angle) + others * math.sin(angle)
        sizes.append(math.ceil(turned * (1.0 + change.scale) - 1e-6))
    return tuple(sizes)


def _shapes(change: Augmentation, window_size: tuple[int, ...]) -> list[Any]:
    dims = len(window_size)
    angle = math.radians(change.rotate_degrees)
    affine = RandAffined(
        keys=EVERYTHING,
        prob=1.0,
        # in 3-D a patient turns about every axis, but less out of the plane of the slices
        rotate_range=(angle,) if dims == 2 else (angle, angle / 2, angle / 2),
        scale_range=(change.scale,) * dims,
        spatial_size=window_size,
        mode=("bilinear", "nearest", "nearest"),
        padding_mode="border" if change.outside == "edge" else "reflection",
    )
    mirrored = [AXES.index(name) - (3 - dims) for name in change.mirror]
    flips = [RandFlipd(EVERYTHING, prob=0.5, spatial_axis=axis) for axis in mirrored if axis >= 0]
    quarter = [RandRotate90d(EVERYTHING, prob=0.75, spatial_axes=(dims - 2, dims - 1))]
    return [affine, *flips, *(quarter if change.quarter_turns else [])]


def _grey_levels(change: Augmentation) -> list[Any]:
    changes: list[Any] = []
    if change.blur_px:
        sigma = (0.1, change.blur_px)
        changes.append(RandGaussianSmoothd("image", sigma, sigma, sigma, prob=0.3))
    if change.contrast:
        gamma = (1.0 - change.contrast, 1.0 / (1.0 - change.contrast))
        changes.append(RandAdjustContrastd("image", prob=0.5, gamma=gamma, retain_stats=True))
    if change.noise:
        changes.append(RandGaussianNoised("image", prob=0.5, std=change.noise))
    if change.shift:
        changes.append(RandShiftIntensityd("image", offsets=2.0 * change.shift, prob=0.8))
    return changes
