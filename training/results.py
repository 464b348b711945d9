"""What an evaluation found: per case and label, summed up, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from training.errors import RunError
from training.metrics import Agreement
from training.statistics import Interval, Summary, summarise, wilson

DistanceUnit = Literal["mm", "px"]
Values = list[float | None]

METRICS = ("dice", "iou", "surface_dice", "hausdorff", "hd95", "volume_error")


@dataclass(frozen=True)
class LabelResult:
    """One label in one case; the counts are None for an organ, which is not counted in pieces."""

    label: int
    agreement: Agreement
    n_lesions: int | None = None
    n_hit: int | None = None
    """Lesions of the truth that a finding touches."""
    n_false: int | None = None
    """Findings that touch neither truth nor an ignored voxel."""


@dataclass(frozen=True)
class CaseResult:
    """One case; `labels` in the order of the evaluation's `label_names`."""

    case: str
    group: str
    stratum: str
    labels: tuple[LabelResult, ...]
    seconds: float
    """What the finder took; measuring is not in it."""


@dataclass(frozen=True)
class Totals:
    """One label counted over cases. What counts lesions is None for an organ."""

    n_lesions: int | None
    n_hit: int | None
    sensitivity: float | None
    """Share of all lesions that were hit; the interval is Wilson's, with lesions as independent."""
    sensitivity_interval: Interval | None
    n_false: int | None
    false_per_case: float | None
    n_empty: int
    """Cases without truth,"""
    n_false_alarms: int
    """and those of them in which something was found."""


@dataclass(frozen=True)
class Evaluation:
    """All cases of a split. Raises ValueError when cases and label names do not fit each other."""

    cases: tuple[CaseResult, ...]
    label_names: tuple[str, ...]
    distance_unit: DistanceUnit
    tolerance: float
    """Of the surface Dice, in `distance_unit`."""

    def __post_init__(self) -> None:
        if not self.cases or len(set(self.label_names)) != len(self.label_names):
            raise ValueError("an evaluation needs cases, and labels with names of their own")
        if any(len(case.labels) != len(self.label_names) for case in self.cases):
            raise ValueError(f"every case needs a result for each of the labels {self.label_names}")

    @property
    def strata(self) -> tuple[str, ...]:
        """Kinds of case, sorted; none when all cases are of one kind."""
        names = sorted({case.stratum for case in self.cases})
        return tuple(names) if len(names) > 1 else ()

    def of_stratum(self, stratum: str) -> Evaluation:
        """The part with the cases of one kind; raises ValueError when there are none."""
        return replace(self, cases=tuple(case for case in self.cases if case.stratum == stratum))

    def values(self, metric: str, label: str | None = None) -> Values:
        """One of `METRICS` per case, of one label or (None) the mean over the labels.

        That mean is undefined where it is for one of the labels: every mean is over all of them.
        """
        if label is not None:
            return self._of_label(metric, self.label_names.index(label))
        columns = [self._of_label(metric, index) for index in range(len(self.label_names))]
        rows = ([v for v in row if v is not None] for row in zip(*columns, strict=True))
        return [fmean(row) if len(row) == len(columns) else None for row in rows]

    def _of_label(self, metric: str, index: int) -> Values:
        return [getattr(case.labels[index].agreement, metric) for case in self.cases]

    def mean_dice(self) -> float:
        """Mean over cases and labels."""
        return fmean(value for value in self.values("dice") if value is not None)

    def summaries(self, label: str | None = None) -> dict[str, Summary]:
        """Each of `METRICS` of one label, or of the mean over the labels; resampled by group."""
        groups = [case.group for case in self.cases]
        return {metric: summarise(self.values(metric, label), groups) for metric in METRICS}

    def totals(self, label: str) -> Totals:
        """Lesions, findings and false alarms of one label."""
        index = self.label_names.index(label)
        results = [case.labels[index] for case in self.cases]
        empty = [result.agreement for result in results if not result.agreement.volume_truth]
        n_lesions = _total([result.n_lesions for result in results])
        n_hit = _total([result.n_hit for result in results])
        n_false = _total([result.n_false for result in results])
        return Totals(
            n_lesions=n_lesions,
            n_hit=n_hit,
            sensitivity=n_hit / n_lesions if n_hit is not None and n_lesions else None,
            sensitivity_interval=wilson(n_hit, n_lesions) if n_hit is not None and n_lesions else None,
            n_false=n_false,
            false_per_case=None if n_false is None else n_false / len(results),
            n_empty=len(empty),
            n_false_alarms=sum(found.volume_found > 0 for found in empty),
        )

    def figures(self) -> dict[str, Any]:
        """Summaries and totals as plain values, for reports and the model card.

        `mean` is over the labels; `labels` and `strata` hold the same per label and per kind of case.
        """
        return {
            "distance_unit": self.distance_unit,
            "tolerance": self.tolerance,
            **self._figures(),
            "strata": {name: self.of_stratum(name)._figures() for name in self.strata},
        }

    def _figures(self) -> dict[str, Any]:
        return {
            "n_cases": len(self.cases),
            "n_groups": len({case.group for case in self.cases}),
            "seconds_per_case": fmean(case.seconds for case in self.cases),
            "mean": _plain(self.summaries()),
            "labels": {
                name: {**_plain(self.summaries(name)), **asdict(self.totals(name))}
                for name in self.label_names
            },
        }

    def to_plain(self) -> dict[str, Any]:
        """Everything for JSON, case by case."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_plain(cls, plain: Any) -> Evaluation:
        """What `to_plain` gave; raises RunError when it is something else."""
        try:
            return _ADAPTER.validate_python(plain)
        except ValidationError as error:
            raise RunError(f"this is no stored evaluation, evaluate the model again: {error}") from error


_ADAPTER = TypeAdapter(Evaluation)


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _plain(summaries: dict[str, Summary]) -> dict[str, Any]:
    return {metric: asdict(summary) for metric, summary in summaries.items()}
