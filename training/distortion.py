"""Damages windows that a network shall repair: that is how it learns from images without labels.

In the manner of Models Genesis (Zhou et al., MICCAI 2019): grey levels go through a random curve, and
blocks are painted over.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from training.config import Share, Strict

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]

CURVE_POINTS = 64
MOST_BLOCKS = 1000
"""Blocks overlap, so a large share may take many; beyond this number it is let be."""


class Distortion(Strict):
    """How far windows are damaged."""

    hidden: Share = 0.4
    """Share of each window that is painted over, at least."""
    smallest_block: Share = 0.06
    """Sides of the blocks, as shares of those of the window."""
    largest_block: Share = 0.25
    curved: Share = 0.8
    """Share of windows whose grey levels go through a curve."""
    inverted: Share = 0.25
    """Share of the curves that fall."""


def distort(image: torch.Tensor, how: Distortion, rng: Rng) -> torch.Tensor:
    """A damaged copy of the windows `image` (n, channel, ...); each channel of a window in the same way.

    Channels are neighbouring slices: one of them would show what is hidden in another.
    """
    return torch.stack([_distort_one(window, how, rng) for window in image])


def _distort_one(window: torch.Tensor, how: Distortion, rng: Rng) -> torch.Tensor:
    low, high = float(window.min()), float(window.max())
    damaged = window.clone()
    if rng.random() < how.curved and high > low:
        place = (window.numpy().astype(np.float64) - low) / (high - low)
        damaged = torch.from_numpy(low + (high - low) * _curved(place, how, rng)).to(window.dtype)
    hide(damaged, (low, high), how, rng)
    return damaged


def _curved(place: Floats, how: Distortion, rng: Rng) -> Floats:
    """Grey levels 0..1 through a cubic Bezier curve from (0, 0) to (1, 1) with random inner points."""
    inner = np.sort(rng.random((2, 2)), axis=1)
    t = np.linspace(0.0, 1.0, CURVE_POINTS)
    weights = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)
    x, y = (weights[0] * first + weights[1] * second + t**3 for first, second in inner)
    if rng.random() < how.inverted:
        y = 1.0 - y
    curved: Floats = np.interp(place, x, y)
    return curved


def hide(window: torch.Tensor, levels: tuple[float, float], how: Distortion, rng: Rng) -> None:
    """Paint blocks of one random grey level each over `window` (channel, ...), in place."""
    size = np.array(window.shape[1:])
    hidden = np.zeros(size, np.bool_)
    for _ in range(MOST_BLOCKS):
        if hidden.mean() >= how.hidden:
            return
        share = rng.uniform(how.smallest_block, max(how.smallest_block, how.largest_block), len(size))
        block = np.maximum(1, np.round(share * size)).astype(int)
        corner = rng.integers(0, size - block + 1)
        where = tuple(slice(int(a), int(a + b)) for a, b in zip(corner, block, strict=True))
        hidden[where] = True
        window[(slice(None), *where)] = rng.uniform(*levels)
