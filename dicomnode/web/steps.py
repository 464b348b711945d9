"""The steps of one study in time, read off its audit trail, as bars of a waterfall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from dicomnode.records.audit import Event
from dicomnode.records.tables import AuditRow

ARRIVALS = (Event.INSTANCE_RECEIVED, Event.INSTANCE_ALTERED)
BEGINNINGS = (
    Event.STUDY_REOPENED,
    Event.STUDY_REPLAYED,
    Event.JOB_REPLAYED,
    Event.DELIVERY_REPLAYED,
)
"""Events after which time is counted anew: hours may lie before them."""
NARROWEST_PERCENT = 0.4


class Sort(StrEnum):
    """What a step spends its time with."""

    WAIT = "wait"
    WORK = "work"
    SEND = "send"
    FAIL = "fail"


@dataclass(frozen=True)
class Step:
    """One step from its start to its end."""

    words: str
    sort: Sort
    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, (self.end - self.start).total_seconds())


@dataclass(frozen=True)
class Bar:
    """A step as it is drawn: place and width in percent of the whole run."""

    step: Step
    offset_s: float
    left: float
    width: float


@dataclass
class Run:
    """The steps between two beginnings."""

    steps: list[Step] = field(default_factory=list)

    @property
    def start(self) -> datetime:
        """When the first step began."""
        return min(step.start for step in self.steps)

    @property
    def seconds(self) -> float:
        """From the first beginning to the last end."""
        return (max(step.end for step in self.steps) - self.start).total_seconds()

    def bars(self) -> Iterator[Bar]:
        """The steps in the order of their start."""
        whole_s = self.seconds or 1.0
        for step in sorted(self.steps, key=lambda step: (step.start, step.end)):
            offset_s = (step.start - self.start).total_seconds()
            width = max(NARROWEST_PERCENT, 100 * step.seconds / whole_s)
            left = min(100 * offset_s / whole_s, 100 - NARROWEST_PERCENT)
            yield Bar(step, offset_s, round(left, 2), round(min(width, 100 - left), 2))


def runs_of(rows: Iterable[AuditRow]) -> list[Run]:
    """The runs of one study, the first one first; `rows` are its events in order."""
    reader = _Reader()
    for row in rows:
        reader.read(row)
    return [run for run in reader.runs if run.steps]


class _Reader:
    """Remembers since when what has begun is under way."""

    def __init__(self) -> None:
        self.runs = [Run()]
        self._arriving_since: datetime | None = None
        self._last_arrival: datetime | None = None
        self._completed: datetime | None = None
        self._waiting_since: dict[int | None, datetime] = {}
        self._made: dict[str | None, datetime] = {}

    def read(self, row: AuditRow) -> None:
        """Take in the next event."""
        event, at = row.event, row.at
        if event in BEGINNINGS:
            self.runs.append(Run())
        if event in ARRIVALS:
            self._arriving_since = self._arriving_since or at
            self._last_arrival = at
        elif event == Event.STUDY_COMPLETED:
            self._on_complete(row)
        elif event in (Event.SERIES_ROUTED, Event.SERIES_NOT_ROUTED) and self._completed:
            self._add("routing", Sort.WORK, self._completed, at)
            self._completed = None
        elif event in (Event.STAGE_FINISHED, Event.STAGE_FAILED):
            begun = at - timedelta(seconds=float(row.detail["duration_s"]))
            failed = event == Event.STAGE_FAILED
            words = f"{row.detail['stage']}{' failed' if failed else ''}"
            self._add(f"job {row.job_id}: {words}", Sort.FAIL if failed else Sort.WORK, begun, at)
        else:
            self._on_job(event, row)
            self._on_delivery(event, row)

    def _on_complete(self, row: AuditRow) -> None:
        if self._arriving_since and self._last_arrival:
            self._add("images arrive", Sort.WORK, self._arriving_since, self._last_arrival)
            rule = str(row.detail.get("rule", "")).replace("_", " ")
            self._add(f"waiting until complete ({rule})", Sort.WAIT, self._last_arrival, row.at)
        self._arriving_since, self._completed = None, row.at

    def _on_job(self, event: str, row: AuditRow) -> None:
        if event in (Event.JOB_CREATED, Event.JOB_RETRIED, Event.JOB_RECOVERED, Event.JOB_REPLAYED):
            self._waiting_since[row.job_id] = row.at
        elif event == Event.JOB_STARTED and row.job_id in self._waiting_since:
            since = self._waiting_since.pop(row.job_id)
            self._add(f"job {row.job_id}: waiting for a worker", Sort.WAIT, since, row.at)

    def _on_delivery(self, event: str, row: AuditRow) -> None:
        uid = row.sop_instance_uid
        if event in (Event.RESULT_CREATED, Event.DELIVERY_REPLAYED):
            self._made[uid] = row.at
        elif event in (Event.RESULT_DELIVERED, Event.DELIVERY_DEAD) and uid in self._made:
            failed = event == Event.DELIVERY_DEAD
            words = f"{row.detail['kind']} {'given up for' if failed else 'to'} {row.detail['destination']}"
            self._add(words, Sort.FAIL if failed else Sort.SEND, self._made[uid], row.at)

    def _add(self, words: str, sort: Sort, start: datetime, end: datetime) -> None:
        self.runs[-1].steps.append(Step(words, sort, start, end))
