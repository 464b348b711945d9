"""2-D training: a slice with its neighbours, as an even thicker scan would show them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from training.cases import Mask, Truth
from training.config import Augmentation
from training.sources import Image, Source

Rng = np.random.Generator

VANISH_MARGIN = 2
"""Pixels around a lesion that are taken out with it."""
SHIFTS_TRIED = 12
ROUNDING = 1e-3
"""Files keep spacings in single precision: five slices of 1.2 mm are 6 mm thick."""


def stack_slices(
    source: Source, at: int, context_slices: int, change: Augmentation, rng: Rng
) -> tuple[Image, Truth, Mask]:
    """Slice `at` with its neighbours: image (channel, row, column), truth and ignored (row, column).

    With thick slices each channel is the average of several source slices. Beyond the ends of the
    image the last slice is repeated, as in inference; with `vanish` the lesion is taken out of it.
    """
    n = source.image.shape[0]
    thickness = _thickness(source, change, rng)
    first = min(at, n - thickness)
    vanish = rng.random() < change.vanish
    channels = []
    for offset in range(-context_slices, context_slices + 1):
        start = first + offset * thickness
        index = np.arange(start, start + thickness)
        inside = (index >= 0) & (index < n)
        averaged = source.image[index.clip(0, n - 1)].mean(axis=0)
        if vanish and not inside.any():
            end = 0 if start < 0 else n - 1
            averaged = without_lesion(averaged, (source.truth[end] > 0) | source.ignored[end], rng)
        channels.append(averaged)
    if "slice" in change.mirror and rng.random() < 0.5:
        channels.reverse()
    middle = slice(first, first + thickness)
    truth = _majority(source.truth[middle])
    return np.stack(channels), truth, source.ignored[middle].any(axis=0) & (truth == 0)


def _thickness(source: Source, change: Augmentation, rng: Rng) -> int:
    if source.slice_mm is None:
        return 1
    most = min(source.image.shape[0], int(change.thickest_mm / source.slice_mm + ROUNDING))
    if most > 1 and rng.random() < change.thick_slices:
        return int(rng.integers(2, most + 1))
    return 1


def _majority(truth: Truth) -> Truth:
    """The label that at least half of the slices show, per pixel."""
    if truth.shape[0] == 1:
        only: Truth = truth[0]
        return only
    result = np.zeros(truth.shape[1:], np.uint8)
    for label in np.unique(truth[truth > 0]):
        result[(truth == label).mean(axis=0) >= 0.5] = label
    return result


def without_lesion(image: Image, lesion: Mask, rng: Rng) -> Image:
    """`image` (row, column) with the lesion covered by the darkest of some patches beside it.

    Truth on crops says where a nodule ends; a real scan goes on there with lung and vessels.
    """
    if not lesion.any():
        return image
    gone = ndimage.binary_dilation(lesion, iterations=VANISH_MARGIN)
    reach = int(np.ceil(np.sqrt(gone.sum()))) + 4
    best: Image | None = None
    for _ in range(SHIFTS_TRIED):
        angle = rng.uniform(0.0, 2.0 * np.pi)
        by = round(reach * np.sin(angle)), round(reach * np.cos(angle))
        moved = np.roll(image, by, axis=(0, 1))
        clear = not (np.roll(gone, by, axis=(0, 1)) & gone).any()
        if clear and (best is None or moved[gone].mean() < best[gone].mean()):
            best = moved
    if best is None:
        return image
    cover = ndimage.gaussian_filter(gone.astype(np.float32), 0.8)
    cover = np.maximum(cover, lesion) * rng.uniform(0.8, 1.0)
    covered: Image = (image * (1.0 - cover) + best * cover).astype(np.float32)
    return covered
