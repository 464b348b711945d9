"""What a run of the benchmark found, as docs/performance.json keeps it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Spread:
    """Median with the lowest and the highest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpanResult(_Result):
    """A part of the middle round."""

    name: str
    start_s: float
    end_s: float


class ContenderResult(_Result):
    """Seconds and figures of each round, in order; `missing` says what would have to be installed."""

    name: str
    missing: str = ""
    seconds: list[float]
    figures: dict[str, list[float]] = {}
    spans: list[SpanResult] = []

    def values(self, figure: str) -> list[float]:
        """The rounds of one figure; "s" is the time."""
        return self.seconds if figure == "s" else self.figures.get(figure, [])


class VerdictResult(_Result):
    """A goal and what came of it; `met` is None where a peer is missing."""

    goal: str
    measured: str
    met: bool | None


class CaseResult(_Result):
    """All contenders at the same work."""

    name: str
    contenders: list[ContenderResult]
    reference: str | None = None
    count: float | None = None
    unit: str = ""
    at: tuple[str, float] | None = None
    note: str = ""
    verdicts: list[VerdictResult] = []

    def contender(self, name: str) -> ContenderResult:
        """Raises LookupError for a name that is not there."""
        for found in self.contenders:
            if found.name == name:
                return found
        raise LookupError(f"case {self.name!r} has no contender {name!r}")

    def ratio(self, name: str, reference: str) -> Spread | None:
        """How many times as fast `name` is, round by round; None where one of both was not measured."""
        own, others = self.contender(name).seconds, self.contender(reference).seconds
        return Spread.of([other / mine for mine, other in zip(own, others, strict=False)])


class StageResult(_Result):
    """One stage, and where, when and how it was measured."""

    name: str
    title: str
    what: str
    command: str
    date: str
    commit: str
    machine: str
    cases: list[CaseResult]


class Results(_Result):
    """Everything on the page."""

    stages: dict[str, StageResult] = {}
