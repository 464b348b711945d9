"""Which voxels become a finding: thresholds chosen on validation cases, never on test cases.

The rules are those of `inference.lesions`: a voxel is found from the probability threshold on;
found voxels fall into 26-connected pieces; a piece is dropped when it is too small or when its most
certain voxel is not certain enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

from training.errors import RunError

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Scored:
    """A validation case with the joint probability of all its labels; arrays (slice, row, column).

    `voxel_size` is the size of one voxel in the unit of `Choices.smallest`: mm3, say, or the model's
    smallest lesion.
    """

    certainty: Floats
    truth: Mask
    ignored: Mask
    voxel_size: float


@dataclass(frozen=True)
class Choices:
    """The values that are tried, each with each."""

    thresholds: tuple[float, ...] = tuple(round(0.05 * n, 2) for n in range(1, 20))
    peaks: tuple[float, ...] = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
    smallest: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds, and what they gave on the validation cases.

    `dice` is the mean over cases; a case without lesion and finding has 1. `sensitivity` is the
    share of lesions that a finding touches, None without lesions.
    """

    probability_threshold: float
    peak_probability: float
    smallest: float
    dice: float
    sensitivity: float | None
    false_per_case: float


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The pieces of one case at one threshold; all arrays are (piece,) but for `hits`."""

    sizes: Floats
    peaks: Floats
    n_found: npt.NDArray[np.intp]
    """Voxels that are not ignored."""
    n_true: npt.NDArray[np.intp]
    excused: Mask
    """Whether the piece touches truth or ignored voxels."""
    hits: Mask
    """(piece, lesion): which touches which."""
    n_truth: int


def choose_operating_point(
    cases: Iterable[Scored], choices: Choices, most_false_per_case: float | None = None
) -> OperatingPoint:
    """The choice with the highest mean Dice, among those with at most `most_false_per_case` false findings.

    Of equal choices the one with the lower peak and smaller smallest lesion wins. Raises RunError
    without cases, or when no choice keeps the bound, or when none finds any lesion.
    """
    points = operating_points(cases, choices)
    if all(point.sensitivity == 0.0 for point in points):
        raise RunError("no threshold finds a lesion of the validation cases: train further")
    kept = [p for p in points if most_false_per_case is None or p.false_per_case <= most_false_per_case]
    if not kept:
        fewest = min(point.false_per_case for point in points)
        raise RunError(
            f"no threshold keeps to {most_false_per_case} false findings per case; the fewest are "
            f"{fewest:.2f}: allow more, or train further"
        )
    return max(kept, key=lambda p: (round(p.dice, 6), -p.peak_probability, -p.smallest))


def operating_points(cases: Iterable[Scored], choices: Choices) -> list[OperatingPoint]:
    """What every choice gives over all cases; raises RunError without cases."""
    grid = list(itertools.product(choices.thresholds, choices.peaks, choices.smallest))
    totals = np.zeros((len(grid), 3))
    n_cases = n_lesions = 0
    for case in cases:
        lesions = cc3d.connected_components(case.truth, connectivity=26, out_dtype=np.uint32)
        pieces = {t: _pieces(case, lesions, t) for t in choices.thresholds}
        totals += [_score(pieces[t], peak, smallest) for t, peak, smallest in grid]
        n_cases, n_lesions = n_cases + 1, n_lesions + int(lesions.max())
    if n_cases == 0:
        raise RunError("an operating point needs validation cases; there are none")
    return [
        OperatingPoint(*choice, dice / n_cases, hits / n_lesions if n_lesions else None, false / n_cases)
        for choice, (dice, hits, false) in zip(grid, totals, strict=True)
    ]


def _pieces(case: Scored, lesions: npt.NDArray[np.uint32], threshold: float) -> _Pieces:
    found = case.certainty >= threshold
    labelled = cc3d.connected_components(found, connectivity=26, out_dtype=np.uint32)
    n, of = int(labelled.max()), labelled[found].astype(np.intp) - 1
    true, ignored, lesion = case.truth[found], case.ignored[found], lesions[found]
    peaks = np.zeros(n, np.float64)
    np.maximum.at(peaks, of, case.certainty[found])
    hits = np.zeros((n, int(lesions.max()) + 1), np.bool_)
    hits[of, lesion] = True
    return _Pieces(
        sizes=np.bincount(of, minlength=n) * case.voxel_size,
        peaks=peaks,
        n_found=np.bincount(of[~ignored], minlength=n),
        n_true=np.bincount(of[true & ~ignored], minlength=n),
        excused=np.bincount(of[true | ignored], minlength=n) > 0,
        hits=hits[:, 1:],
        n_truth=int(np.count_nonzero(case.truth & ~case.ignored)),
    )


def _score(pieces: _Pieces, peak: float, smallest: float) -> Sequence[float]:
    """Dice, lesions hit and false findings of one case."""
    keep = (pieces.peaks >= peak) & (pieces.sizes >= smallest)
    both, found = int(pieces.n_true[keep].sum()), int(pieces.n_found[keep].sum())
    total = found + pieces.n_truth
    return (
        2.0 * both / total if total else 1.0,
        float(np.count_nonzero(pieces.hits[keep].any(axis=0))),
        float(np.count_nonzero(keep & ~pieces.excused)),
    )
