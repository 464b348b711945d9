"""Makes jobs: one for each series, model and input, however often it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.forms import Wanted, wants
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import utc_now
from dicomnode.records.model_tables import ModelRow
from dicomnode.records.states import DeliveryState, JobState, moved
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow
from dicomnode.records.wake import Topic, announce
from dicomnode.settings.node import RouteSettings
from dicomnode.study import Series
from inference.bundle import ModelBundle


@dataclass(frozen=True)
class Order:
    """What a new job shall do."""

    series: Series
    generation: int
    route: RouteSettings
    bundle: ModelBundle
    send: bool
    """False for a model in shadow: its results are stored, never sent."""
    priority: int = 0
    """Of its route, its sender and the study's own word together."""
    ranked_at: datetime = field(default_factory=utc_now)
    """Its place in the queue (dicomnode/urgency.py)."""
    notes: tuple[str, ...] = ()
    wanted: Wanted = field(default_factory=dict)

    @property
    def destinations(self) -> tuple[str, ...]:
        """Where the results go."""
        return self.route.destinations if self.send else ()


def create_job(session: Session, audit: Audit, order: Order) -> tuple[JobRow, bool]:
    """Queue a job, or find the one that already did exactly this. Returns it and whether it is new.

    Jobs of the same series and route with another input that have not started are superseded.
    """
    _supersede_waiting(session, audit, order)
    existing = _job_for(session, order.series.series_instance_uid, order.bundle.digest, order.series.digest)
    if existing is not None:
        _take_up_again(session, audit, existing, shadow=not order.send)
        _add_destinations(session, existing, order.destinations, order.wanted)
        return existing, False
    now = utc_now()
    job = JobRow(
        study_instance_uid=order.series.study_instance_uid,
        series_instance_uid=order.series.series_instance_uid,
        generation=order.generation,
        route=order.route.name,
        destinations={"names": list(order.destinations)},
        model=order.bundle.card.name,
        model_digest=order.bundle.digest,
        input_digest=order.series.digest,
        notes={"lines": list(order.notes)},
        priority=order.priority,
        ranked_at=order.ranked_at,
        shadow=not order.send,
        not_before=now,
        created_at=now,
    )
    _queue(session, audit, job, order.bundle.card.version)
    return job, True


def hand_over(session: Session, audit: Audit, job: JobRow, model: ModelRow, wanted: Wanted) -> None:
    """Another version does what `job` was to do; where it has already looked, its results are sent."""
    existing = _job_for(session, job.series_instance_uid, model.digest, job.input_digest)
    if existing is not None:
        _take_up_again(session, audit, existing, shadow=False)
        _add_destinations(session, existing, tuple(job.destinations["names"]), wanted)
        return
    now = utc_now()
    successor = JobRow(
        study_instance_uid=job.study_instance_uid,
        series_instance_uid=job.series_instance_uid,
        generation=job.generation,
        route=job.route,
        destinations=job.destinations,
        model=model.name,
        model_digest=model.digest,
        input_digest=job.input_digest,
        notes=job.notes,
        priority=job.priority,
        ranked_at=job.ranked_at,
        not_before=now,
        created_at=now,
    )
    _queue(session, audit, successor, model.version)


def replay_job(session: Session, audit: Audit, job: JobRow) -> None:
    """Queue a job again that failed or was superseded, with its attempts counted from the start."""
    job.state = moved(JobState(job.state), JobState.QUEUED).value
    job.attempt, job.losses, job.error, job.finished_at = 0, 0, None, None
    job.not_before = utc_now()
    announce(session, Topic.JOBS)
    audit.record(session, Event.JOB_REPLAYED, Subject.of_job(job))


def _take_up_again(session: Session, audit: Audit, job: JobRow, *, shadow: bool) -> None:
    """A superseded job is needed after all: what took its place does not do it any more."""
    if job.state != JobState.SUPERSEDED:
        return
    replay_job(session, audit, job)
    job.destinations, job.shadow = {"names": []}, shadow


def _queue(session: Session, audit: Audit, job: JobRow, model_version: str) -> None:
    session.add(job)
    session.flush()
    announce(session, Topic.JOBS)
    audit.record(
        session,
        Event.JOB_CREATED,
        Subject.of_job(job),
        route=job.route,
        model=job.model,
        model_version=model_version,
        model_digest=job.model_digest,
        input_digest=job.input_digest,
        priority=job.priority,
        shadow=job.shadow,
    )


def _job_for(
    session: Session, series_instance_uid: str, model_digest: str, input_digest: str
) -> JobRow | None:
    return session.scalar(
        select(JobRow).where(
            JobRow.series_instance_uid == series_instance_uid,
            JobRow.model_digest == model_digest,
            JobRow.input_digest == input_digest,
        )
    )


def _add_destinations(session: Session, job: JobRow, destinations: tuple[str, ...], wanted: Wanted) -> None:
    """A route gained a destination, or a model went live: what is there is sent there too."""
    missing = [name for name in destinations if name not in job.destinations["names"]]
    if not missing:
        return
    job.destinations, job.shadow = {"names": [*job.destinations["names"], *missing]}, False
    for result in session.scalars(
        select(ResultRow).where(ResultRow.job_id == job.id, ResultRow.purged_at.is_(None))
    ):
        post(session, job, result, missing, wanted)


def post(session: Session, job: JobRow, result: ResultRow, destinations: list[str], wanted: Wanted) -> None:
    """Put one result into the outbox for every destination that wants its kind."""
    announce(session, Topic.DELIVERIES)
    for destination in destinations:
        if not wants(wanted, destination, result.kind):
            continue
        session.add(
            DeliveryRow(
                sop_instance_uid=result.sop_instance_uid,
                job_id=job.id,
                destination=destination,
                state=DeliveryState.WAITING.value,
                not_before=utc_now(),
            )
        )


def _supersede_waiting(session: Session, audit: Audit, order: Order) -> None:
    for job in session.scalars(
        select(JobRow).where(
            JobRow.study_instance_uid == order.series.study_instance_uid,
            JobRow.series_instance_uid == order.series.series_instance_uid,
            JobRow.route == order.route.name,
            JobRow.state == JobState.QUEUED.value,
            JobRow.input_digest != order.series.digest,
        )
    ):
        job.state = moved(JobState(job.state), JobState.SUPERSEDED).value
        job.finished_at = utc_now()
        audit.record(session, Event.JOB_SUPERSEDED, Subject.of_job(job))
