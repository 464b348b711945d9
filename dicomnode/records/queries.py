"""What administrators ask of the database, as functions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.records.commitment_tables import CommitmentRequestRow
from dicomnode.records.states import DeliveryState, StudyState
from dicomnode.records.tables import AuditRow, DeliveryRow, DestinationRow, JobRow, StudyRow


def overview(session: Session) -> dict[str, dict[str, int]]:
    """How many studies, jobs, deliveries and destinations are in each state."""
    tables = {
        "studies": StudyRow.state,
        "jobs": JobRow.state,
        "deliveries": DeliveryRow.state,
        "destinations": DestinationRow.state,
    }
    return {
        name: {
            state: count for state, count in session.execute(select(column, func.count()).group_by(column))
        }
        for name, column in tables.items()
    }


def held_studies(session: Session) -> dict[str, int]:
    """Why complete studies wait before routing, and how many for each reason."""
    held = session.execute(
        select(StudyRow.held_reason, func.count())
        .where(StudyRow.state == StudyState.COMPLETE.value, StudyRow.held_reason.is_not(None))
        .group_by(StudyRow.held_reason)
        .order_by(StudyRow.held_reason)
    )
    return {str(reason): count for reason, count in held}


def outage(row: DestinationRow) -> str:
    """What is the matter with a destination that failed last time, in an administrator's words."""
    failures = f"{row.failures} failed attempt{'' if row.failures == 1 else 's'}"
    if row.lost_at is None:
        return f"sending to {row.name} pauses after {failures}: {row.reason}"
    since = f"{row.lost_at:%Y-%m-%d %H:%M} UTC"
    return f"{row.name} counts as lost since {since}, results wait ({failures}): {row.reason}"


def troubled_destinations(session: Session) -> list[dict[str, Any]]:
    """Destinations whose breaker is not closed, or that failed last time."""
    rows = session.scalars(
        select(DestinationRow).where(DestinationRow.failures > 0).order_by(DestinationRow.name)
    )
    return [
        {
            "destination": row.name,
            "state": row.state,
            "failures": row.failures,
            "lost_at": row.lost_at,
            "next_try_at": row.not_before,
            "reason": row.reason,
            "told": outage(row),
        }
        for row in rows
    ]


def uncommitted(session: Session) -> list[dict[str, Any]]:
    """What destinations have stored and not committed to: how many, when they were asked, when again."""
    asked = (CommitmentRequestRow.transaction_uid == DeliveryRow.transaction_uid) & (
        DeliveryRow.commitment_attempt > 0
    )
    again_at = func.min(DeliveryRow.not_before)
    rows = session.execute(
        select(DeliveryRow.destination, func.count(), func.max(CommitmentRequestRow.asked_at), again_at)
        .outerjoin(CommitmentRequestRow, asked)
        .where(DeliveryRow.state == DeliveryState.STORED.value)
        .group_by(DeliveryRow.destination)
        .order_by(DeliveryRow.destination)
    )
    keywords = ("destination", "count", "asked_at", "asks_again_at")
    return [dict(zip(keywords, row, strict=True)) for row in rows]


def jobs(session: Session, state: str | None, limit: int) -> list[tuple[JobRow, Counter[str]]]:
    """The newest jobs, newest first, each with its deliveries counted by state."""
    query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
    if state:
        query = query.where(JobRow.state == state)
    return [(job, _deliveries(session, job.id)) for job in session.scalars(query)]


def _deliveries(session: Session, job_id: int) -> Counter[str]:
    return Counter(session.scalars(select(DeliveryRow.state).where(DeliveryRow.job_id == job_id)))


def job_record(job: JobRow, deliveries: Counter[str]) -> dict[str, Any]:
    """A job as plain values."""
    return {
        "id": job.id,
        "state": job.state,
        "stage": job.stage,
        "study_instance_uid": job.study_instance_uid,
        "series_instance_uid": job.series_instance_uid,
        "route": job.route,
        "model": job.model,
        "model_digest": job.model_digest,
        "shadow": job.shadow,
        "attempt": job.attempt,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": job.error,
        "deliveries": dict(deliveries),
    }


def event_record(row: AuditRow) -> dict[str, Any]:
    """An event as plain values."""
    return {column.name: getattr(row, column.name) for column in AuditRow.__table__.columns}
