"""What the database and the headers say of one study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Event
from dicomnode.records.commitment_tables import CommitmentRequestRow
from dicomnode.records.tables import (
    AuditRow,
    DecisionRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    ResultRow,
    StudyRow,
)
from dicomnode.study import read_instance, text


@dataclass(frozen=True)
class SeriesFacts:
    """One series: what it is, and why it went where it went."""

    decision: DecisionRow
    instance_count: int
    number: str = ""
    description: str = ""
    modality: str = ""


@dataclass(frozen=True)
class JobFacts:
    """One job with what it made."""

    job: JobRow
    results: tuple[ResultRow, ...]
    deliveries: tuple[tuple[DeliveryRow, ResultRow], ...]
    asked_at: dict[str, datetime]
    """When destinations were asked to commit, by Transaction UID."""

    @property
    def seconds(self) -> float | None:
        """From the start of the last attempt to its end."""
        if self.job.started_at is None or self.job.finished_at is None:
            return None
        return (self.job.finished_at - self.job.started_at).total_seconds()


@dataclass(frozen=True)
class StudyFacts:
    """Everything that one page shows of a study."""

    study: StudyRow
    series: tuple[SeriesFacts, ...]
    earlier: tuple[DecisionRow, ...]
    """Decisions of earlier generations, the newest first."""
    jobs: tuple[JobFacts, ...]
    """The newest first."""
    events: tuple[AuditRow, ...]

    @property
    def can_be_replayed(self) -> bool:
        """Whether anything waits for an administrator."""
        dead = any(delivery.state == "dead" for job in self.jobs for delivery, _ in job.deliveries)
        return self.study.state == "parked" or dead or any(job.job.state == "failed" for job in self.jobs)


def read_facts(session: Session, study: StudyRow) -> StudyFacts:
    """Read one study whole."""
    uid = study.study_instance_uid
    decisions = session.scalars(
        select(DecisionRow).where(DecisionRow.study_instance_uid == uid).order_by(DecisionRow.id)
    ).all()
    newest = max((decision.generation for decision in decisions), default=0)
    events = session.scalars(
        select(AuditRow).where(AuditRow.study_instance_uid == uid).order_by(AuditRow.id)
    ).all()
    return StudyFacts(
        study,
        tuple(_series(session, [d for d in decisions if d.generation == newest])),
        tuple(d for d in reversed(decisions) if d.generation != newest),
        tuple(_jobs(session, uid)),
        tuple(events),
    )


def without_views(events: Iterable[AuditRow]) -> list[AuditRow]:
    """The events that say what happened to a study, without who has looked at it."""
    return [row for row in events if row.event != Event.PATIENT_DATA_VIEWED]


def _series(session: Session, decisions: list[DecisionRow]) -> list[SeriesFacts]:
    found = []
    for decision in decisions:
        of_series = (
            InstanceRow.study_instance_uid == decision.study_instance_uid,
            InstanceRow.series_instance_uid == decision.series_instance_uid,
        )
        count = session.scalar(select(func.count(InstanceRow.sop_instance_uid.distinct())).where(*of_series))
        path = session.scalar(select(InstanceRow.path).where(*of_series).order_by(InstanceRow.id).limit(1))
        found.append(SeriesFacts(decision, count or 0, **_header(path)))
    return found


def _header(path: str | None) -> dict[str, str]:
    """How people call a series; nothing where its images are gone."""
    try:
        header = read_instance(Path(path or ""), "unread").header
    except (InvalidDicomError, OSError):
        return {}
    return {
        "number": text(header, "SeriesNumber"),
        "description": text(header, "SeriesDescription"),
        "modality": text(header, "Modality"),
    }


def _jobs(session: Session, study_instance_uid: str) -> list[JobFacts]:
    jobs = session.scalars(
        select(JobRow).where(JobRow.study_instance_uid == study_instance_uid).order_by(JobRow.id.desc())
    ).all()
    results = session.scalars(
        select(ResultRow)
        .where(ResultRow.job_id.in_([job.id for job in jobs]))
        .order_by(ResultRow.created_at, ResultRow.kind)
    ).all()
    by_uid = {result.sop_instance_uid: result for result in results}
    deliveries = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.job_id.in_([job.id for job in jobs]))
        .order_by(DeliveryRow.destination, DeliveryRow.id)
    ).all()
    requests = session.scalars(
        select(CommitmentRequestRow).where(CommitmentRequestRow.job_id.in_([job.id for job in jobs]))
    ).all()
    return [
        JobFacts(
            job,
            tuple(result for result in results if result.job_id == job.id),
            tuple((d, by_uid[d.sop_instance_uid]) for d in deliveries if d.job_id == job.id),
            {asked.transaction_uid: asked.asked_at for asked in requests if asked.job_id == job.id},
        )
        for job in jobs
    ]


@dataclass(frozen=True)
class Progress:
    """How far a study in a list is."""

    jobs: Counter[str]
    deliveries: Counter[str]


def progress_of(session: Session, studies: Iterable[StudyRow]) -> dict[str, Progress]:
    """Jobs and deliveries by state, of each study."""
    uids = [study.study_instance_uid for study in studies]
    found = {uid: Progress(Counter(), Counter()) for uid in uids}
    job_counts: Any = session.execute(
        select(JobRow.study_instance_uid, JobRow.state, func.count())
        .where(JobRow.study_instance_uid.in_(uids))
        .group_by(JobRow.study_instance_uid, JobRow.state)
    )
    for uid, state, count in job_counts:
        found[uid].jobs[state] = count
    delivery_counts: Any = session.execute(
        select(JobRow.study_instance_uid, DeliveryRow.state, func.count())
        .join(DeliveryRow, DeliveryRow.job_id == JobRow.id)
        .where(JobRow.study_instance_uid.in_(uids))
        .group_by(JobRow.study_instance_uid, DeliveryRow.state)
    )
    for uid, state, count in delivery_counts:
        found[uid].deliveries[state] = count
    return found
