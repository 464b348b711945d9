"""Means with their uncertainty, and whether two models differ.

Intervals are percentile bootstraps (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13): cases are drawn again with replacement, and the middle 95 % of the statistics so found is
the interval. Cases of one group (one patient) are drawn together, since they resemble each other. The
seed is fixed, so the same values always give the same interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20250101
FEWEST_PAIRS = 6
"""With five pairs even the most extreme outcome has p = 2 / 2^5 = 0.0625."""


@dataclass(frozen=True)
class Summary:
    """Mean and median of the values that exist, with 95 % intervals, and how many there were.

    An interval is None where there is nothing to draw again: fewer than two groups.
    """

    mean: float | None
    median: float | None
    mean_interval: Interval | None
    median_interval: Interval | None
    n: int
    n_undefined: int


@dataclass(frozen=True)
class PairedTest:
    """Whether two models differ on the same cases; `reason` says why there is no `p`."""

    n: int
    """Pairs that were compared: cases, or groups where cases were averaged within them."""
    median_difference: float | None
    p: float | None
    reason: str = ""


def summarise(values: Iterable[float | None], groups: Sequence[Hashable] | None = None) -> Summary:
    """Summary without the undefined values; `groups` names the group of each value.

    Mean and median give every value the same weight, however large its group is. Without `groups`
    each value is its own group. Raises ValueError when values and groups are not equally many.
    """
    everything = list(values)
    names = list(range(len(everything))) if groups is None else list(groups)
    defined = [(v, name) for v, name in zip(everything, names, strict=True) if v is not None]
    n_undefined = len(everything) - len(defined)
    if not defined:
        return Summary(None, None, None, None, 0, n_undefined)
    numbers = np.array([value for value, _ in defined], np.float64)
    mean_interval, median_interval = _intervals(numbers, _group_numbers([name for _, name in defined]))
    return Summary(
        mean=float(numbers.mean()),
        median=float(np.median(numbers)),
        mean_interval=mean_interval,
        median_interval=median_interval,
        n=len(defined),
        n_undefined=n_undefined,
    )


def paired_test(
    a: Iterable[float | None], b: Iterable[float | None], groups: Sequence[Hashable] | None = None
) -> PairedTest:
    """Wilcoxon signed-rank test (two-sided) of `a` - `b`, case by case.

    Pairs with an undefined side are left out. With `groups` the differences are first averaged
    within each group, because the test asks for pairs that are independent. Pairs without a
    difference are not ranked, as Wilcoxon had it; when none is left, p is 1. p is exact for up to 50
    ranked pairs without ties and for up to 13 with them, otherwise a normal approximation (SciPy).
    Raises ValueError when the arguments are not equally many.
    """
    pairs = list(zip(a, b, strict=True))
    names = list(range(len(pairs))) if groups is None else list(groups)
    kept = [
        (x - y, name) for (x, y), name in zip(pairs, names, strict=True) if x is not None and y is not None
    ]
    if not kept:
        return PairedTest(0, None, None, "no pair is defined on both sides")
    differences = _group_means(
        np.array([difference for difference, _ in kept], np.float64),
        _group_numbers([name for _, name in kept]),
    )
    n, median = len(differences), float(np.median(differences))
    if n < FEWEST_PAIRS:
        return PairedTest(n, median, None, f"{n} pairs are too few, the test needs {FEWEST_PAIRS}")
    ranked = differences[differences != 0]
    if not ranked.size:
        return PairedTest(n, median, 1.0)
    return PairedTest(n, median, float(stats.wilcoxon(ranked).pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction for several tests at once, in the order given.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 1979,
    6, 65-70. A None was no test: it stays None and does not count.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[index] = highest
    return corrected


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's 95 % interval of a share (JASA 1927, 22, 209-212); None without trials."""
    if trials == 0:
        return None
    interval = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def _group_numbers(names: Sequence[Hashable]) -> Counts:
    """The groups as numbers from 0, in the order in which they first come."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


def _group_means(values: Floats, group: Counts) -> Floats:
    means: Floats = np.bincount(group, values) / np.bincount(group)
    return means


def _intervals(values: Floats, group: Counts) -> tuple[Interval | None, Interval | None]:
    """Intervals of the mean and of the median, from the same draws of groups."""
    if group.max() == 0:
        return None, None
    ordering = np.argsort(values, kind="stable")
    values = values[ordering]
    times = _draws(int(group.max()) + 1)[:, group[ordering]]
    means = times @ values / times.sum(axis=1)
    return _middle(means), _middle(_medians(values, times))


def _draws(n_groups: int) -> Counts:
    """How often each group is drawn: (draw, group)."""
    drawn = np.random.default_rng(SEED).integers(n_groups, size=(RESAMPLES, n_groups))
    flat = (drawn + n_groups * np.arange(RESAMPLES)[:, None]).ravel()
    return np.bincount(flat, minlength=RESAMPLES * n_groups).reshape(RESAMPLES, n_groups)


def _medians(values: Floats, times: Counts) -> Floats:
    """Median of each draw; `values` are sorted and `times` (draw, value) says how often each is in it."""
    reached = times.cumsum(axis=1)
    total = reached[:, -1:]
    lower = (reached > (total - 1) // 2).argmax(axis=1)
    upper = (reached > total // 2).argmax(axis=1)
    medians: Floats = (values[lower] + values[upper]) / 2
    return medians


def _middle(statistics: Floats) -> Interval:
    low, high = np.quantile(statistics, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
