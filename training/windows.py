"""Training windows cut from cases.

The batch of a step is a function of (seed, step, rank) alone, so a resumed run sees the same windows
and every process of a parallel run sees its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from inference.bundle import Preprocessing
from training.augment import Augmenter, reach
from training.cases import Mask
from training.config import Augmentation, Experiment, Fitting
from training.slices import stack_slices
from training.sources import Source
from training.synthetic import LesionPatch, insert

Rng = np.random.Generator
Array = npt.NDArray[np.float32]

OFF_CENTRE = 1 / 3
"""A labelled voxel lies at most this share of the window away from its centre."""


@dataclass(frozen=True)
class Batch:
    """`image` (n, channel, ...) normalised, `truth` int64 and `counted` bool (n, ...)."""

    image: torch.Tensor
    truth: torch.Tensor
    counted: torch.Tensor


class Sampler:
    """Draws the windows of every step from some cases."""

    def __init__(
        self,
        sources: Sequence[Source],
        experiment: Experiment,
        change: Augmentation,
        donors: Sequence[LesionPatch] = (),
    ) -> None:
        """`donors` are the lesions that may be inserted into windows (`synthetic_lesions`)."""
        self.sources = sources
        self.labelled = [np.argwhere(source.truth > 0).astype(np.int32) for source in sources]
        self.donors = donors
        self.fitting: Fitting = experiment.fitting
        self.how: Preprocessing = experiment.preprocessing
        self.change = change
        self.augmenter = Augmenter(change, self.fitting.window_size)

    def batch(self, step: int, rank: int = 0) -> Batch:
        """The windows of one step."""
        rng = np.random.default_rng((self.fitting.seed, step, rank))
        windows = [self.window(rng) for _ in range(self.fitting.batch_size)]
        image, truth, ignored = (torch.stack([w[k] for w in windows]) for k in ("image", "truth", "ignored"))
        return Batch(image.float(), truth[:, 0].round().long(), ignored[:, 0] < 0.5)

    def window(self, rng: Rng) -> dict[str, torch.Tensor]:
        """One changed window of a random case."""
        number = int(rng.integers(len(self.sources)))
        source = self.sources[number]
        centre = self._centre(number, rng)
        image, truth, ignored = self._view(source, centre[0], rng)
        at = centre[1:] if self.how.spatial_dims == 2 else centre
        size = reach(self.change, self.fitting.window_size)
        mode = self.change.outside
        parts = {"image": image, "truth": truth[None].astype(np.float32), "ignored": ignored[None]}
        cut = {
            key: torch.from_numpy(cut_around(part.astype(np.float32), at, size, mode))
            for key, part in parts.items()
        }
        return self.augmenter(cut, rng)

    def _centre(self, number: int, rng: Rng) -> tuple[int, int, int]:
        """The voxel (slice, row, column) around which a window is cut."""
        shape = np.array(self.sources[number].image.shape)
        window = np.array((1, *self.fitting.window_size)[-3:])
        labelled = self.labelled[number]
        if len(labelled) and rng.random() < self.fitting.lesion_share:
            off = np.floor(window * OFF_CENTRE).astype(int)
            centre = labelled[rng.integers(len(labelled))] + rng.integers(-off, off + 1)
        else:
            centre = rng.integers(0, shape)
        inside = np.where(shape > window, centre.clip(window // 2, shape - window + window // 2), shape // 2)
        if self.change.outside == "mirror":  # crops: lesions shall fall anywhere in a window
            inside = centre.clip(0, shape - 1)
        if self.how.spatial_dims == 2:
            inside[0] = centre[0].clip(0, shape[0] - 1)
        return int(inside[0]), int(inside[1]), int(inside[2])

    def _view(self, source: Source, at: int, rng: Rng) -> tuple[Array, npt.NDArray[np.uint8], Mask]:
        """What the network sees: a slice with its neighbours, or the volume as one channel."""
        if self.how.spatial_dims == 2:
            view = stack_slices(source, at, self.how.context_slices, self.change, rng)
        else:
            view = source.image[None], source.truth, source.ignored
        if self.donors and rng.random() < self.change.synthetic_lesions:
            donor = self.donors[int(rng.integers(len(self.donors)))]
            image, truth = insert(view[0], view[1], donor, rng)
            return image, truth, view[2] & (truth == 0)
        return view


def cut_around(array: Array, centre: Sequence[int], size: Sequence[int], outside: str) -> Array:
    """A cut (channel, ...) of `size` around `centre`; beyond the borders the edge or the mirrored array."""
    low = [at - length // 2 for at, length in zip(centre, size, strict=True)]
    extents = list(zip(low, size, array.shape[1:], strict=True))
    missing = [(max(0, -start), max(0, start + length - n)) for start, length, n in extents]
    inside = tuple(slice(max(0, start), max(0, start) + length) for start, length, _ in extents)
    mode: Literal["edge", "symmetric"] = "edge" if outside == "edge" else "symmetric"
    return np.pad(array, [(0, 0), *missing], mode=mode)[(slice(None), *inside)]
