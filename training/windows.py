"""Training windows cut from cases: where they lie, and how they are changed at random.

The batch of a step is a function of (seed, step) alone, so a resumed run sees the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from inference.bundle import Preprocessing
from inference.preprocess import model_shape, normalise, resample
from training.config import Augmentation, Fitting
from training.data import LoadedCase, Mask

Image = npt.NDArray[np.float32]
Rng = np.random.Generator

PADDING = 32
"""Pixels by which crops are mirrored outwards, so that lesions fall anywhere in a window."""
VANISH_MARGIN = 2
"""Pixels around a lesion that are taken out with it."""
SHIFTS_TRIED = 12


@dataclass(frozen=True, eq=False)
class Source:
    """A case on the model's in-plane grid, mirrored outwards by `PADDING`.

    All arrays are (slice, row, column); `image` holds source intensities (HU for CT).
    """

    image: Image
    lesion: Mask
    doubtful: Mask
    slice_mm: float


@dataclass(frozen=True)
class Batch:
    """`image` (n, channel, row, column) normalised; `lesion` and `counted` bool (n, row, column)."""

    image: torch.Tensor
    lesion: torch.Tensor
    counted: torch.Tensor


def to_source(loaded: LoadedCase, how: Preprocessing) -> Source:
    """Bring a case to the model's grid with the code that inference uses."""
    shape = model_shape(loaded.volume, how, loaded.volume.shape)
    pad = ((0, 0), (PADDING, PADDING), (PADDING, PADDING))

    def bring(voxels: npt.NDArray[np.generic]) -> Image:
        grid = resample(torch.from_numpy(voxels.astype(np.float32)), shape).numpy()
        return np.pad(grid, pad, mode="reflect")

    slice_mm = loaded.volume.spacing_mm[0] * loaded.volume.shape[0] / shape[0]
    return Source(
        bring(loaded.volume.voxels), bring(loaded.lesion) >= 0.5, bring(loaded.doubtful) >= 0.5, slice_mm
    )


def draw_batch(
    sources: list[Source], step: int, fitting: Fitting, how: Preprocessing, change: Augmentation
) -> Batch:
    """The windows of one step."""
    rng = np.random.default_rng((fitting.seed, step))
    windows = [
        _draw(sources[rng.integers(len(sources))], rng, fitting, how, change)
        for _ in range(fitting.batch_size)
    ]
    image = normalise(torch.from_numpy(np.stack([w[0] for w in windows])), how.intensity)
    masks = torch.from_numpy(np.stack([np.stack(w[1:]) for w in windows]))
    return Batch(image, masks[:, 0], ~masks[:, 1])


def _draw(
    source: Source, rng: Rng, fitting: Fitting, how: Preprocessing, change: Augmentation
) -> tuple[Image, Mask, Mask]:
    """One window: image (channel, row, column), lesion and doubtful (row, column)."""
    image, lesion, doubtful = stack_window(source, rng, how.context_slices, change)
    zoom = 1.0 + rng.uniform(-change.scale, change.scale)
    size = (round(fitting.window_size[0] / zoom), round(fitting.window_size[1] / zoom))
    wanted = lesion if rng.random() < fitting.lesion_share and lesion.any() else None
    rows, columns = place(image.shape[1:], wanted, size, rng)
    image, lesion, doubtful = image[:, rows, columns], lesion[rows, columns], doubtful[rows, columns]
    image = scaled(image, fitting.window_size)
    lesion, doubtful = (
        scaled(m[None].astype(np.float32), fitting.window_size)[0] >= 0.5 for m in (lesion, doubtful)
    )
    image, lesion, doubtful = turned(image, lesion, doubtful, rng)
    noise = rng.normal(0.0, rng.uniform(0.0, change.noise_hu) + 1e-6, image.shape)
    image = image + noise.astype(np.float32) + np.float32(rng.normal(0.0, change.shift_hu + 1e-6))
    return image, lesion, doubtful


def stack_window(
    source: Source, rng: Rng, context_slices: int, change: Augmentation
) -> tuple[Image, Mask, Mask]:
    """A random slice with its neighbours: image (channel, row, column), lesion, doubtful.

    With thick slices each channel is the average of several source slices. Beyond the ends of the
    crop the last slice is repeated, as in inference; with `vanish` the lesion is taken out of it.
    """
    n = source.image.shape[0]
    thickness = 1
    most = min(n, int(change.thickest_mm / source.slice_mm))
    if most > 1 and rng.random() < change.thick_slices:
        thickness = int(rng.integers(2, most + 1))
    first = int(rng.integers(0, n - thickness + 1))
    vanish = rng.random() < change.vanish
    channels = []
    for offset in range(-context_slices, context_slices + 1):
        start = first + offset * thickness
        index = np.arange(start, start + thickness)
        inside = (index >= 0) & (index < n)
        averaged = source.image[index.clip(0, n - 1)].mean(axis=0)
        if vanish and not inside.any():
            averaged = without_lesion(averaged, _end_lesion(source, 0 if start < 0 else n - 1), rng)
        channels.append(averaged)
    middle = slice(first, first + thickness)
    lesion = source.lesion[middle].mean(axis=0) >= 0.5
    doubtful = source.doubtful[middle].mean(axis=0) > 0
    return np.stack(channels), lesion, doubtful & ~lesion


def _end_lesion(source: Source, index: int) -> Mask:
    present: Mask = source.lesion[index] | source.doubtful[index]
    return present


def without_lesion(image: Image, lesion: Mask, rng: Rng) -> Image:
    """`image` (row, column) with the lesion covered by the darkest of some patches beside it.

    Truth on the crops says where a nodule ends; a real scan goes on there with lung and vessels.
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


def place(
    shape: tuple[int, ...], lesion: Mask | None, size: tuple[int, int], rng: Rng
) -> tuple[slice, slice]:
    """Rows and columns of a window of `size`, around a pixel of `lesion` or anywhere."""
    corner = [int(rng.integers(0, max(1, n - s + 1))) for n, s in zip(shape, size, strict=True)]
    if lesion is not None:
        points = np.argwhere(lesion)
        point = points[rng.integers(len(points))]
        corner = [
            int(np.clip(p - rng.integers(s // 6, s - s // 6), 0, max(0, n - s)))
            for p, n, s in zip(point, shape, size, strict=True)
        ]
    return slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1])


def scaled(image: Image, size: tuple[int, int]) -> Image:
    """(channel, row, column) bilinearly brought to `size`."""
    if image.shape[1:] == size:
        return image
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    result: Image = functional.interpolate(batch, size=size, mode="bilinear", align_corners=False)[0].numpy()
    return result


def turned(image: Image, lesion: Mask, doubtful: Mask, rng: Rng) -> tuple[Image, Mask, Mask]:
    """The same quarter turn and flips for image and masks; slices may also change order."""
    quarters = int(rng.integers(4))
    image, lesion, doubtful = (
        np.rot90(image, quarters, axes=(1, 2)),
        np.rot90(lesion, quarters),
        np.rot90(doubtful, quarters),
    )
    if rng.random() < 0.5:
        image, lesion, doubtful = image[:, :, ::-1], lesion[:, ::-1], doubtful[:, ::-1]
    if rng.random() < 0.5:
        image = image[::-1]
    return image, lesion, doubtful
