"""How long each step of a study took, read off its trail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from dicomnode.records.audit import Event
from dicomnode.records.tables import AuditRow

ARRIVALS = (Event.INSTANCE_RECEIVED, Event.INSTANCE_ALTERED)


@dataclass
class JobTiming:
    """The times of one job, and of what came before and after it. Of several attempts, the last."""

    job_id: int
    last_instance_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    started_at: datetime | None = None
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    ended_at: datetime | None = None
    delivered_at: datetime | None = None
    """The last delivery so far."""

    def steps(self) -> dict[str, float]:
        """Seconds of each step that is over, in order."""
        steps = {
            "last instance to study complete": _seconds(self.last_instance_at, self.completed_at),
            "study complete to job": _seconds(self.completed_at, self.created_at),
            "waiting for a worker": _seconds(self.created_at, self.started_at),
            **self.stages,
            "the whole job": _seconds(self.started_at, self.ended_at),
            "job to last delivery": _seconds(self.ended_at, self.delivered_at),
            "last instance to last delivery": _seconds(self.last_instance_at, self.delivered_at),
        }
        return {name: seconds for name, seconds in steps.items() if seconds is not None}


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 3) if start and end else None


def timings(rows: Iterable[AuditRow]) -> list[JobTiming]:
    """The jobs of a study in the order in which they were made."""
    found: dict[int, JobTiming] = {}
    last_instance_at = completed_at = None
    for row in rows:
        if row.event in ARRIVALS:
            last_instance_at = row.at
        elif row.event == Event.STUDY_COMPLETED:
            completed_at = row.at
        elif row.job_id is None:
            continue
        elif row.event == Event.JOB_CREATED:
            found[row.job_id] = JobTiming(row.job_id, last_instance_at, completed_at, row.at)
        elif row.job_id in found:
            _note(found[row.job_id], row)
    return list(found.values())


def _note(timing: JobTiming, row: AuditRow) -> None:
    match row.event:
        case Event.JOB_STARTED:
            timing.started_at, timing.stages, timing.ended_at = row.at, {}, None
        case Event.STAGE_FINISHED | Event.STAGE_FAILED:
            timing.stages[row.detail["stage"]] = float(row.detail["duration_s"])
        case Event.JOB_SUCCEEDED | Event.JOB_FAILED | Event.JOB_SUPERSEDED:
            timing.ended_at = row.at
        case Event.RESULT_DELIVERED:
            timing.delivered_at = row.at
