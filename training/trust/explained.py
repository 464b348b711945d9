"""Explanations of single cases: the window that the network saw, with its maps on one slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from inference.bundle import Preprocessing
from inference.engine import Model, load_network
from inference.preprocess import prepare, stack_context
from training.cases import LoadedCase, Mask, Truth
from training.errors import DataError
from training.sources import Source, to_source
from training.trust.explain import deepest_convolution, occlusion_map, seg_grad_cam
from training.trust.observe import CaseTrust, found_labels
from training.windows import cut_around

Image = npt.NDArray[np.float32]

PATCHES = {2: 10, 3: 4}
"""By spatial dimensions: so many occluded patches fit side by side into a window. They overlap by half."""


@dataclass(frozen=True)
class Choice:
    """A case to explain. `rank` is its place by Dice among the `n` cases that show a lesion, from 1."""

    trust: CaseTrust
    rank: int
    n: int

    @property
    def words(self) -> str:
        """The place in words."""
        place = f"rank {self.rank} of {self.n}"
        return {1: f"best, {place}", self.n: f"worst, {place}"}.get(self.rank, place)


@dataclass(frozen=True, eq=False)
class Explained:
    """One slice of a window, (row, column) on the model's grid, without what was padded to fill it.

    `cam` runs from 0 to 1. `occlusion` is how far the mean probability of the label in the region
    drops when the place is hidden.
    """

    choice: Choice
    label: str
    layer: str
    """Whose output the Grad-CAM weighs."""
    region: Literal["found", "truth"]
    """What is explained: everything found in the window; the truth when nothing is."""
    slice_number: int
    """On the model's grid, from 0."""
    patch: tuple[int, ...]
    """Size of an occluded patch in voxels of the model's grid."""
    image: Image
    truth: Mask
    found: Mask
    cam: Image
    occlusion: Image

    def to_plain(self) -> dict[str, Any]:
        """What was explained, and the strongest values, for JSON."""
        return {
            "case": self.choice.trust.case,
            "dice": self.choice.trust.dice,
            "rank": self.choice.rank,
            "of": self.choice.n,
            "label": self.label,
            "layer": self.layer,
            "region": self.region,
            "slice": self.slice_number,
            "patch": list(self.patch),
            "occlusion_min": float(self.occlusion.min()),
            "occlusion_max": float(self.occlusion.max()),
            "cam_share_in_truth": _share_inside(self.cam, self.truth),
        }


@dataclass(frozen=True, eq=False)
class _View:
    """What the network sees: `image` (channel, ...), and masks of one label (...) on its window.

    `shown` picks the slice (row, column) that is drawn from a window, without padding.
    """

    image: torch.Tensor
    truth: Mask
    found: Mask
    shown: tuple[int | slice, ...]


class _Tempered(nn.Module):
    """The network at the bundle's temperature, so that maps speak of the model's own probabilities."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the size of `image`."""
        logits: torch.Tensor = self.network(image)
        return logits / self.temperature


def choose(cases: Sequence[CaseTrust], count: int) -> list[Choice]:
    """`count` cases from the best to the worst Dice, evenly spaced by rank; a single one is the worst.

    Only cases whose truth is seen on the model's grid are chosen from; of equal ones the first name
    comes first.
    """
    shown = sorted((c for c in cases if c.truth_voxels), key=lambda c: (-c.dice, c.case))
    if not shown or count < 1:
        return []
    ranks = sorted({round(place) for place in np.linspace(len(shown) - 1, 0, count)})
    return [Choice(shown[rank], rank + 1, len(shown)) for rank in ranks]


def explain(model: Model, loaded: LoadedCase, choice: Choice) -> Explained:
    """Explain the label with most truth on the slice with the largest truth.

    The window has the size that the card names and lies around that truth, so the network sees what it
    sees in use. Raises DataError when the case has no truth on the model's grid.
    """
    card = model.bundle.card
    at, label, view = _look(model, loaded)
    region: Literal["found", "truth"] = "found" if view.found.any() else "truth"
    image = view.image.to(model.device)
    target = torch.from_numpy(view.found if region == "found" else view.truth).to(model.device)
    plain = load_network(model.bundle).eval().to(model.device)  # the model's own has no gradients
    network = _Tempered(plain, card.postprocessing.temperature)
    layer = deepest_convolution(network, image)
    parts = PATCHES[card.preprocessing.spatial_dims]
    patch = tuple(max(2, size // parts) for size in target.shape)
    return Explained(
        choice=choice,
        label=card.labels[label - 1].name,
        layer=layer.removeprefix("network."),
        region=region,
        slice_number=at,
        patch=patch,
        image=view.image[view.image.shape[0] // 2].numpy()[view.shown],
        truth=view.truth[view.shown],
        found=view.found[view.shown],
        cam=seg_grad_cam(network, image, target, label, layer)[view.shown],
        occlusion=occlusion_map(network, image, target, label, patch)[view.shown],
    )


def _look(model: Model, loaded: LoadedCase) -> tuple[int, int, _View]:
    """The slice and the label to explain, and the network's view of them."""
    card = model.bundle.card
    how, labels = card.preprocessing, len(card.labels)
    image = prepare(loaded.volume, how)
    found = found_labels(model, loaded.volume, image, model.probabilities(image))
    source = to_source(loaded, how, labels)
    if not source.truth.any():
        raise DataError(f"case {loaded.case.name} has no truth on the model's grid: explain another one")
    on_grid = to_source(replace(loaded, truth=found), how, labels).truth
    at = int((source.truth > 0).sum(axis=(1, 2)).argmax())
    label = int(np.bincount(source.truth[at][source.truth[at] > 0]).argmax())
    return at, label, _view(source, on_grid, at, label, how)


def _view(source: Source, found: Truth, at: int, label: int, how: Preprocessing) -> _View:
    shape, size = source.truth.shape[-how.spatial_dims :], how.window_size
    rows, columns = np.nonzero(source.truth[at] == label)
    around = (at, round(rows.mean()), round(columns.mean()))[-how.spatial_dims :]
    low = [_start(*extent) for extent in zip(around, shape, size, strict=True)]
    centre = [start + length // 2 for start, length in zip(low, size, strict=True)]
    inside = tuple(
        slice(max(0, -start), min(length, n - start))
        for start, length, n in zip(low, size, shape, strict=True)
    )

    def cut(mask: Mask) -> Mask:
        whole = mask[at] if how.spatial_dims == 2 else mask
        window = np.zeros(size, np.bool_)
        window[inside] = cut_around(whole[None].astype(np.float32), centre, size, "edge")[0][inside] > 0
        return window

    image = source.image[None]
    if how.spatial_dims == 2:
        image = stack_context(torch.from_numpy(source.image), how.context_slices)[at].numpy()
    return _View(
        image=torch.from_numpy(cut_around(image, centre, size, "edge")),
        truth=cut(source.truth == label),
        found=cut(found == label),
        shown=inside if how.spatial_dims == 2 else (at - low[0], *inside[1:]),
    )


def _start(around: int, n: int, size: int) -> int:
    """Where a window begins: within the image, or before it by half of what is missing, as in use."""
    if n <= size:
        return -((size - n) // 2)
    return min(max(0, around - size // 2), n - size)


def _share_inside(values: Image, mask: Mask) -> float | None:
    """The share of a map that lies in a mask; None for a map of nothing."""
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else None
