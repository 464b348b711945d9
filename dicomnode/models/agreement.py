"""How a candidate agrees with the live model over all series that both have seen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from dicomnode.records.model_tables import ComparisonRow
from dicomnode.records.states import JobState
from dicomnode.records.tables import JobRow

NEWEST = 5000
"""Comparisons that are looked at; older ones say less of today."""
WORST = 10
LIMITS_SD = 1.96
"""Half the width of the limits of agreement, in standard deviations: 95 % of differences lie within."""


@dataclass(frozen=True)
class Spread:
    """How values are distributed."""

    count: int
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    mean: float


@dataclass(frozen=True)
class VolumePair:
    """The total volume that each model saw in one series."""

    study_instance_uid: str
    live_ml: float
    candidate_ml: float

    @property
    def mean_ml(self) -> float:
        """Of the two."""
        return (self.live_ml + self.candidate_ml) / 2.0

    @property
    def difference_ml(self) -> float:
        """Candidate minus live."""
        return self.candidate_ml - self.live_ml


@dataclass(frozen=True)
class VolumeAgreement:
    """Bland and Altman's picture of two ways to measure the same (Lancet 1986; 327: 307-310)."""

    pairs: tuple[VolumePair, ...]
    bias_ml: float
    """Mean difference, candidate minus live."""
    lower_ml: float | None
    upper_ml: float | None
    """95 % limits of agreement; absent with fewer than two series."""


@dataclass(frozen=True)
class Agreement:
    """What is known of a pair of models."""

    compared: int
    """Series that both have looked at."""
    failed: int
    """Of these, how many could not be compared."""
    neither: int
    """Of these, in how many neither saw anything."""
    found_by_both: int
    only_live: int
    only_candidate: int
    dice: Spread | None
    volumes: VolumeAgreement | None
    worst: tuple[ComparisonRow, ...]
    """The series on which they disagree most."""


@dataclass(frozen=True)
class Usage:
    """What a version has done so far."""

    studies: int = 0
    succeeded: int = 0
    failed: int = 0
    waiting: int = 0


def agreement(session: Session, live_digest: str, candidate_digest: str) -> Agreement:
    """Over the newest comparisons of the two."""
    rows = session.scalars(
        select(ComparisonRow)
        .where(
            ComparisonRow.live_digest == live_digest,
            ComparisonRow.candidate_digest == candidate_digest,
            ComparisonRow.compared_at.is_not(None),
        )
        .order_by(ComparisonRow.id.desc())
        .limit(NEWEST)
    ).all()
    good = [row for row in rows if row.error is None]
    measured = [row for row in good if row.dice is not None]
    worst = sorted(measured, key=lambda row: (row.dice or 0.0, row.id))[:WORST]
    return Agreement(
        compared=len(rows),
        failed=len(rows) - len(good),
        neither=len(good) - len(measured),
        found_by_both=sum(row.found_by_both or 0 for row in good),
        only_live=sum(row.only_live or 0 for row in good),
        only_candidate=sum(row.only_candidate or 0 for row in good),
        dice=spread([row.dice for row in measured if row.dice is not None]),
        volumes=volume_agreement([pair for row in measured if (pair := _volumes(row)) is not None]),
        worst=tuple(worst),
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Quartiles as numpy computes them by default; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    lower, median, upper = (
        statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    )
    return Spread(len(ordered), ordered[0], lower, median, upper, ordered[-1], statistics.fmean(ordered))


def volume_agreement(pairs: Sequence[VolumePair]) -> VolumeAgreement | None:
    """Bias and limits of agreement; None without a pair."""
    if not pairs:
        return None
    differences = [pair.difference_ml for pair in pairs]
    bias = statistics.fmean(differences)
    lower = upper = None
    if len(differences) > 1:
        width = LIMITS_SD * statistics.stdev(differences)
        lower, upper = bias - width, bias + width
    return VolumeAgreement(tuple(pairs), bias, lower, upper)


def usage(session: Session) -> dict[str, Usage]:
    """What each version has done, by digest."""

    def counted(*states: JobState) -> Any:
        return func.sum(case((JobRow.state.in_([state.value for state in states]), 1), else_=0))

    rows = session.execute(
        select(
            JobRow.model_digest,
            func.count(JobRow.study_instance_uid.distinct()),
            counted(JobState.SUCCEEDED),
            counted(JobState.FAILED),
            counted(JobState.QUEUED, JobState.RUNNING),
        ).group_by(JobRow.model_digest)
    )
    return {digest: Usage(*(int(count) for count in counts)) for digest, *counts in rows}


def _volumes(row: ComparisonRow) -> VolumePair | None:
    if row.live_volume_mm3 is None or row.candidate_volume_mm3 is None:
        return None
    return VolumePair(row.study_instance_uid, row.live_volume_mm3 / 1000.0, row.candidate_volume_mm3 / 1000.0)
