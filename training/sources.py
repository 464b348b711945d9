"""Cases on the model's grid, ready to be cut into windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from inference.bundle import Preprocessing
from inference.preprocess import ModelInput, prepare, resample
from training.cases import LoadedCase, Mask, Truth

Image = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Source:
    """A case as the network sees it: normalised, turned and resampled by the code that inference uses.

    All arrays are (slice, row, column). `slice_mm` is None where images do not follow each other in
    space.
    """

    image: Image
    truth: Truth
    ignored: Mask
    slice_mm: float | None


def to_source(loaded: LoadedCase, how: Preprocessing, labels: int) -> Source:
    """Bring a case with `labels` labels to the model's grid."""
    image = prepare(loaded.volume, how)
    truth = np.zeros(tuple(image.image.shape), np.uint8)
    for label in range(1, labels + 1):
        truth[_bring(loaded.mask(label), image)] = label
    slice_mm = None
    if loaded.volume.has_geometry:
        along = image.turn.axes[0]
        slice_mm = loaded.volume.spacing_mm[along] * loaded.volume.shape[along] / image.image.shape[0]
    return Source(image.image.numpy(), truth, _bring(loaded.ignored, image), slice_mm)


def _bring(mask: Mask, image: ModelInput) -> Mask:
    """A mask on the grid of `image`: what at least half fills a voxel there."""
    slices, rows, columns = image.image.shape
    turned = image.turn.apply(torch.from_numpy(mask.astype(np.float32)))
    brought: Mask = resample(turned, (slices, rows, columns)).numpy() >= 0.5
    return brought
