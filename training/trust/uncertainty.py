"""How unsure a model is, from predictions that should agree, and whether that foretells its errors.

Members are predictions of one image: mirrored ones of one model, or those of several models. Arrays
of members are (member, class, slice, row, column); class 0 is background.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from inference.engine import Model, mirrored_axes
from inference.preprocess import ModelInput
from training.errors import RunError

Floats = npt.NDArray[np.float64]

Axis = Literal["slice", "row", "column"]
IN_PLANE: tuple[Axis, ...] = ("row", "column")
FAILED_BELOW = 0.5
"""A case with a lower Dice counts as failed."""


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Entropies in nats, (slice, row, column), and what they say of the whole case.

    `entropy` is that of the mean prediction (all uncertainty); `mutual_information` is the part
    that comes from the members' disagreement (Gal, Uncertainty in Deep Learning, 2016, section
    3.3). `mean_entropy` is taken over the found region, None when nothing is found. `pairwise_dice`
    is the mean Dice of any two members; two that find nothing agree. `volume_sd` is the standard
    deviation (n - 1) of the members' volumes, in the unit of the voxel size.
    """

    entropy: Floats
    mutual_information: Floats
    mean_entropy: float | None
    pairwise_dice: float
    volume_mean: float
    volume_sd: float


@dataclass(frozen=True)
class ErrorForetold:
    """How well an uncertainty ranks cases by their error, 1 - Dice.

    `spearman` is None when either does not vary; `auroc` tells failed cases from others, None
    unless there are both. `risk` and `coverage` run over the cases from the surest on: mean error
    among the share that is kept (Geifman and El-Yaniv, NeurIPS 2017). `aurc` is the mean of `risk`;
    an uninformative uncertainty has `aurc_of_chance`, a perfect one `aurc_at_best`.
    """

    n: int
    n_failed: int
    spearman: float | None
    auroc: float | None
    aurc: float
    aurc_of_chance: float
    aurc_at_best: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


def mirrored_members(model: Model, image: ModelInput, axes: Sequence[Axis] = IN_PLANE) -> torch.Tensor:
    """Predictions of `image` and of its mirror images along every combination of `axes`.

    Each is turned back, so all lie on the model's grid. The model's own averaging over mirror
    images is left out, for it would make all members alike.
    """
    plain = _without_mirrors(model)
    members = []
    for combination in mirrored_axes(axes):
        mirrored = replace(image, image=image.image.flip(combination))
        members.append(plain.probabilities(mirrored).flip([axis + 1 for axis in combination]))
    return torch.stack(members)


def _without_mirrors(model: Model) -> Model:
    card = model.bundle.card
    if not card.preprocessing.mirrored:
        return model
    preprocessing = card.preprocessing.model_copy(update={"mirrored": ()})
    bundle = replace(model.bundle, card=card.model_copy(update={"preprocessing": preprocessing}))
    return Model(bundle, model.device, model.network)


def uncertainty(members: torch.Tensor, threshold: float, voxel_size: float = 1.0) -> Uncertainty:
    """What the members say of one case; a voxel is found from `threshold` on, over all its labels.

    Raises RunError when there are fewer than two members.
    """
    if members.ndim != 5 or members.shape[0] < 2:
        raise RunError(
            f"uncertainty needs members (member, class, slice, row, column), two at least: got "
            f"{tuple(members.shape)}"
        )
    p = members.double().numpy()
    mean = p.mean(axis=0)
    entropy = _entropy(mean, axis=0)
    joint = 1.0 - p[:, 0]
    found = 1.0 - mean[0] >= threshold
    masks = joint >= threshold
    volumes = masks.sum(axis=(1, 2, 3)) * voxel_size
    return Uncertainty(
        entropy=entropy,
        mutual_information=(entropy - _entropy(p, axis=1).mean(axis=0)).clip(0.0),
        mean_entropy=float(entropy[found].mean()) if found.any() else None,
        pairwise_dice=float(np.mean([_dice(a, b) for a, b in itertools.combinations(masks, 2)])),
        volume_mean=float(volumes.mean()),
        volume_sd=float(volumes.std(ddof=1)),
    )


def _entropy(p: Floats, axis: int) -> Floats:
    entropy: Floats = stats.entropy(p, axis=axis)
    return entropy


def _dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0


def foretells_error(uncertainties: Sequence[float], dice: Sequence[float]) -> ErrorForetold:
    """Compare the uncertainty of each case with its Dice against the truth.

    Cases of equal uncertainty share their mean error, so their order changes nothing. Raises
    RunError without cases or when the numbers of values differ.
    """
    if not dice or len(uncertainties) != len(dice):
        raise RunError(
            f"one uncertainty for each Dice is needed, and one case at least: got {len(uncertainties)} "
            f"and {len(dice)}"
        )
    unsure, error = np.asarray(uncertainties, np.float64), 1.0 - np.asarray(dice, np.float64)
    failed = np.asarray(dice) < FAILED_BELOW
    risk = _risk(unsure, error)
    n = len(error)
    return ErrorForetold(
        n=n,
        n_failed=int(failed.sum()),
        spearman=_spearman(unsure, error),
        auroc=_auroc(unsure, failed),
        aurc=float(risk.mean()),
        aurc_of_chance=float(error.mean()),
        aurc_at_best=float(_risk(error, error).mean()),
        coverage=tuple(((np.arange(n) + 1) / n).tolist()),
        risk=tuple(risk.tolist()),
    )


def _risk(unsure: Floats, error: Floats) -> Floats:
    """Mean error among the k surest cases, for each k."""
    _, group = np.unique(unsure, return_inverse=True)
    mean_error = np.bincount(group, weights=error) / np.bincount(group)
    ordered = mean_error[np.sort(group)]
    risk: Floats = np.cumsum(ordered) / (np.arange(len(ordered)) + 1)
    return risk


def _spearman(unsure: Floats, error: Floats) -> float | None:
    if np.ptp(unsure) == 0.0 or np.ptp(error) == 0.0:
        return None
    return float(stats.spearmanr(unsure, error).statistic)


def _auroc(unsure: Floats, failed: npt.NDArray[np.bool_]) -> float | None:
    """The chance that a failed case is less sure than another: Mann-Whitney U over all pairs."""
    if failed.all() or not failed.any():
        return None
    u = stats.mannwhitneyu(unsure[failed], unsure[~failed]).statistic
    return float(u / (failed.sum() * (~failed).sum()))
