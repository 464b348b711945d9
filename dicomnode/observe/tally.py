"""Counts what the audit trail says, event by event, each event read once.

A scrape must be cheap beside a trail of millions of rows: a tally starts at the end of the trail when
its process starts, and every scrape reads only what was added since. Counters that start at 0 with a
process are what Prometheus expects.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Event
from dicomnode.records.tables import AuditRow, StudyRow

STAGE_LIMITS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
TURNAROUND_LIMITS_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
BATCH = 5000


@dataclass
class Histogram:
    """How many durations lay below each limit, and their sum."""

    limits_s: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.limits_s) + 1)

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.limits_s, duration_s)] += 1
        self.sum_s += duration_s

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper limit, as Prometheus wants them."""
        names = [*(str(limit) for limit in self.limits_s), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]


class Tally:
    """Everything counted since the process started."""

    def __init__(self, session: Session) -> None:
        self._last_id = session.scalar(select(func.max(AuditRow.id))) or 0
        self.events: Counter[str] = Counter({event.value: 0 for event in Event})
        self.stages: dict[str, Histogram] = {}
        self.turnaround = Histogram(TURNAROUND_LIMITS_S)

    def catch_up(self, session: Session) -> None:
        """Read what was added to the trail since the last time."""
        query = select(AuditRow).order_by(AuditRow.id).limit(BATCH)
        while rows := session.scalars(query.where(AuditRow.id > self._last_id)).all():
            for row in rows:
                self._count(session, row)
            self._last_id = rows[-1].id

    def _count(self, session: Session, row: AuditRow) -> None:
        self.events[row.event] += 1
        if row.event == Event.STAGE_FINISHED:
            stage = row.detail["stage"]
            histogram = self.stages.setdefault(stage, Histogram(STAGE_LIMITS_S))
            histogram.observe(float(row.detail["duration_s"]))
        elif row.event == Event.RESULT_DELIVERED:
            study = session.get(StudyRow, row.study_instance_uid)
            if study is not None:
                self.turnaround.observe((row.at - study.last_received_at).total_seconds())
