"""Whether a probability means what it says: reliability, and the temperature that mends it.

Background that nobody would mistake for a lesion fills most of an image. It would make every model
look well calibrated, so only the voxels of a band count: those within a margin of the truth or of
what was found. The band of an image without either is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize, special

from training.errors import DataError

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

N_BINS = 15
FOUND = 0.5
"""A voxel counts as found, for the band, from this probability on."""
TEMPERATURES = (0.05, 20.0)
"""Range that is searched for a temperature."""
TINY = 1e-7
"""Probabilities are held away from 0 and 1 by this, so that one sure mistake costs no infinity."""


@dataclass(frozen=True)
class Bin:
    """Voxels whose probability lies in `low`..`high`; the last two are None where there are none."""

    low: float
    high: float
    n: int
    mean_probability: float | None
    frequency: float | None
    """The share of these voxels that are lesion."""


@dataclass(frozen=True)
class Calibration:
    """A reliability curve in equal-width bins, and four numbers for it. All are 0 at their best.

    `ece` and `mce` are the mean (by number of voxels) and the largest distance between probability
    and frequency over the bins (Naeini et al., AAAI 2015), `brier` is the mean squared error, and
    `nll` the mean negative log likelihood in nats.
    """

    bins: tuple[Bin, ...]
    ece: float
    mce: float
    brier: float
    nll: float
    n: int


def band(probability: Floats, truth: Mask, ignored: Mask, margin: float, spacing: tuple[float, ...]) -> Mask:
    """The voxels that count: not ignored, and at most `margin` from the truth or what was found.

    All arrays are (slice, row, column) on one grid; `margin` is in the unit of `spacing`: voxels
    where that is (1, 1, 1). An infinite spacing keeps the band within a slice.
    """
    core = truth | (probability >= FOUND)
    if not core.any():
        return np.zeros(truth.shape, np.bool_)
    steps = tuple(min(step, 1e6) for step in spacing)
    near: Mask = (ndimage.distance_transform_edt(~core, sampling=steps) <= margin) & ~ignored
    return near


def calibration(probability: Floats, happened: Mask, n_bins: int = N_BINS) -> Calibration:
    """Reliability of `probability` (n,) against what `happened` (n,), a bool for each.

    Raises DataError when there are no voxels, shapes differ, or a value is no probability.
    """
    if probability.ndim != 1 or probability.shape != happened.shape or probability.size == 0:
        raise DataError(
            f"calibration needs as many probabilities as outcomes, and one at least: got "
            f"{probability.shape} and {happened.shape}; are there lesions in the validation cases?"
        )
    p = probability.astype(np.float64)
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise DataError(f"probabilities must lie in 0..1, got {p.min()}..{p.max()}; give softmax output")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    of = np.minimum((p * n_bins).astype(np.intp), n_bins - 1)
    counts = np.bincount(of, minlength=n_bins)
    p_sum = np.bincount(of, weights=p, minlength=n_bins)
    y_sum = np.bincount(of, weights=happened.astype(np.float64), minlength=n_bins)
    gaps = np.abs(p_sum - y_sum)
    clipped = p.clip(TINY, 1.0 - TINY)
    return Calibration(
        bins=tuple(
            _bin(edges[i], edges[i + 1], int(counts[i]), float(p_sum[i]), float(y_sum[i]))
            for i in range(n_bins)
        ),
        ece=float(gaps.sum() / p.size),
        mce=float((gaps[counts > 0] / counts[counts > 0]).max()),
        brier=float(np.mean((p - happened) ** 2)),
        nll=float(-np.mean(np.log(np.where(happened, clipped, 1.0 - clipped)))),
        n=int(p.size),
    )


def _bin(low: float, high: float, n: int, p_sum: float, y_sum: float) -> Bin:
    if n == 0:
        return Bin(float(low), float(high), 0, None, None)
    return Bin(float(low), float(high), n, p_sum / n, y_sum / n)


def fit_temperature(logits: Floats, truth: npt.NDArray[np.integer]) -> float:
    """The temperature that makes `truth` (n,) likeliest under softmax(`logits` (n, class) / temperature).

    Temperature scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017): no voxel
    changes its likeliest class. Log probabilities serve as logits, since a softmax does not see a
    constant. The answer lies in `TEMPERATURES`; it is at the lower end when no voxel is wrong.

    Fit it on validation cases only, with a model whose own temperature is 1. Raises DataError when
    shapes do not fit or there are no voxels.
    """
    if logits.ndim != 2 or truth.shape != logits.shape[:1] or truth.size == 0:
        raise DataError(
            f"a temperature needs logits (n, class) and truth (n,), n above 0: got {logits.shape} and "
            f"{truth.shape}; are there lesions in the validation cases?"
        )
    if int(truth.min()) < 0 or int(truth.max()) >= logits.shape[1]:
        raise DataError(
            f"truth holds class {truth.max()}, but there are logits for {logits.shape[1]} classes"
        )
    scores = logits.astype(np.float64)
    true_mean = scores[np.arange(len(scores)), truth].mean()

    def loss(log_temperature: float) -> float:
        beta = np.exp(-log_temperature)
        return float(special.logsumexp(scores * beta, axis=1).mean() - beta * true_mean)

    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
