"""What hospitals send, and when. These are assumptions, named as such in docs/scale.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
DAY_CURVE = (1, 1, 1, 1, 1, 1, 2, 6, 12, 14, 14, 13, 10, 11, 13, 12, 10, 7, 5, 4, 3, 2, 2, 1)
"""Studies of each hour of a day, in parts of the day's."""
WEEK_CURVE = (1.2, 1.2, 1.2, 1.2, 1.15, 0.6, 0.45)
"""Studies of each day from Monday on; 1 is the mean."""
OUTAGES_PER_WEEK = 1.0
"""How often the PACS of a hospital, or the line to it, stands still; all it held back comes at its end."""
OUTAGE_S = 1800.0


@dataclass(frozen=True)
class Kind:
    """A kind of study."""

    modality: str
    share: float
    images: float
    """Median of a log-normal distribution."""
    spread: float
    """Sigma of that distribution."""
    image_bytes: float
    routed: float
    """The share of the studies of which a series goes to a model."""
    routed_images: float
    """How much of such a study that series is."""


KINDS = (
    Kind("CT", 0.40, 350.0, 0.7, 526_000.0, 0.5, 0.5),
    Kind("MR", 0.30, 500.0, 0.5, 200_000.0, 0.3, 0.2),
    Kind("US", 0.30, 40.0, 0.7, 900_000.0, 0.3, 0.25),
)


@dataclass(frozen=True)
class Sent:
    """One study that is sent to the node."""

    at_s: float
    modality: str
    images: int
    size_bytes: float
    routed_images: int
    """Images of the series that goes to a model; 0 when none does."""


def studies(hospitals: int, studies_per_year: float, days: int, seed: int) -> list[Sent]:
    """All studies of `days` days from a Monday on, in the order in which they reach the node."""
    chance = np.random.default_rng(seed)
    per_hospital = studies_per_year / hospitals
    arrivals = np.concatenate(
        [_held_back(_arrivals(per_hospital, days, chance), days, chance) for _ in range(hospitals)]
    )
    return list(_kinds_of(np.sort(arrivals), chance))


def _arrivals(per_year: float, days: int, chance: np.random.Generator) -> npt.NDArray[np.float64]:
    """A Poisson process whose rate is constant within an hour."""
    hours = np.outer(
        [WEEK_CURVE[day % 7] * 7 / sum(WEEK_CURVE) for day in range(days)],
        np.array(DAY_CURVE) / sum(DAY_CURVE),
    )
    counts = chance.poisson(per_year / 365.0 * hours.ravel())
    starts = np.repeat(np.arange(24 * days) * HOUR_S, counts)
    found: npt.NDArray[np.float64] = starts + chance.uniform(0.0, HOUR_S, len(starts))
    return found


def _held_back(
    arrivals: npt.NDArray[np.float64], days: int, chance: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The same with outages: what falls into one comes at its end."""
    for _ in range(chance.poisson(OUTAGES_PER_WEEK * days / 7.0)):
        begins = chance.uniform(0.0, days * DAY_S)
        inside = (arrivals >= begins) & (arrivals < begins + OUTAGE_S)
        arrivals = np.where(inside, begins + OUTAGE_S, arrivals)
    return arrivals


def _kinds_of(arrivals: npt.NDArray[np.float64], chance: np.random.Generator) -> Iterator[Sent]:
    chosen = chance.choice(len(KINDS), len(arrivals), p=[kind.share for kind in KINDS])
    sizes = chance.standard_normal(len(arrivals))
    lots = chance.uniform(size=len(arrivals))
    for at_s, number, size, lot in zip(arrivals, chosen, sizes, lots, strict=True):
        kind = KINDS[number]
        images = max(1, round(kind.images * float(np.exp(kind.spread * size))))
        routed = max(1, round(images * kind.routed_images)) if lot < kind.routed else 0
        yield Sent(float(at_s), kind.modality, images, images * kind.image_bytes, routed)
