"""Tries again what failed: one way for commands and the web page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from dicomnode.deliver.delivery import replay_delivery
from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit
from dicomnode.records.instances import stored_instances, what_was_purged
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.tables import DeliveryRow, JobRow, StudyRow
from dicomnode.route.dispatch import replay_study
from dicomnode.work.orders import replay_job


@dataclass(frozen=True)
class Replayed:
    """How much was queued again."""

    studies: int = 0
    jobs: int = 0
    deliveries: int = 0

    def __bool__(self) -> bool:
        return bool(self.studies or self.jobs or self.deliveries)

    def __str__(self) -> str:
        counts = {"study": self.studies, "job": self.jobs, "delivery": self.deliveries}
        return ", ".join(f"{count} x {name}" for name, count in counts.items())


def replay_of_job(session: Session, audit: Audit, job_id: int) -> Replayed:
    """A failed job, and its deliveries that were given up."""
    return Replayed(
        jobs=_jobs(session, audit, _FAILED.where(JobRow.id == job_id)),
        deliveries=_deliveries(session, audit, _DEAD.where(DeliveryRow.job_id == job_id)),
    )


def replay_of_results(session: Session, audit: Audit, sop_instance_uids: Sequence[str]) -> Replayed:
    """Every delivery of these objects that was given up."""
    return Replayed(
        deliveries=_deliveries(
            session, audit, _DEAD.where(DeliveryRow.sop_instance_uid.in_(sop_instance_uids))
        )
    )


def replay_of_study(session: Session, audit: Audit, study_instance_uid: str) -> Replayed:
    """Everything of a study that was parked, failed or was given up.

    Raises PermanentError when its images are gone by retention.
    """
    jobs = select(JobRow.id).where(JobRow.study_instance_uid == study_instance_uid)
    parked = session.scalars(
        select(StudyRow).where(
            StudyRow.state == StudyState.PARKED.value, StudyRow.study_instance_uid == study_instance_uid
        )
    ).all()
    for study in parked:
        replay_study(session, audit, study)
    replayed = Replayed(
        studies=len(parked),
        jobs=_jobs(session, audit, _FAILED.where(JobRow.study_instance_uid == study_instance_uid)),
        deliveries=_deliveries(session, audit, _DEAD.where(DeliveryRow.job_id.in_(jobs))),
    )
    purged = [row for row in stored_instances(session, study_instance_uid) if row.purged_at is not None]
    if purged and (parked or not replayed):
        raise PermanentError(f"study {study_instance_uid} cannot be replayed: {what_was_purged(purged)}")
    return replayed


def replay_dead(
    session: Session, audit: Audit, peers: Collection[str], destination: str | None = None
) -> Replayed:
    """Every delivery that was given up, for one destination or for all that are among `peers`."""
    dead = _DEAD.where(DeliveryRow.destination.in_(list(peers)))
    if destination is not None:
        dead = dead.where(DeliveryRow.destination == destination)
    return Replayed(deliveries=_deliveries(session, audit, dead))


def dead_of_unknown(session: Session, peers: Collection[str]) -> list[tuple[str, int]]:
    """Destinations that are not among `peers`, and how many deliveries to each were given up."""
    query = (
        select(DeliveryRow.destination, func.count())
        .where(DeliveryRow.state == DeliveryState.DEAD.value, DeliveryRow.destination.not_in(list(peers)))
        .group_by(DeliveryRow.destination)
        .order_by(DeliveryRow.destination)
    )
    return [(name, count) for name, count in session.execute(query)]


def replay_one_delivery(session: Session, audit: Audit, delivery_id: int) -> Replayed:
    """One delivery that was given up."""
    return Replayed(deliveries=_deliveries(session, audit, _DEAD.where(DeliveryRow.id == delivery_id)))


_FAILED = select(JobRow).where(JobRow.state == JobState.FAILED.value)
_DEAD = select(DeliveryRow).where(DeliveryRow.state == DeliveryState.DEAD.value)


def _jobs(session: Session, audit: Audit, query: Select[JobRow]) -> int:
    found = session.scalars(query).all()
    for job in found:
        replay_job(session, audit, job)
    return len(found)


def _deliveries(session: Session, audit: Audit, query: Select[DeliveryRow]) -> int:
    found = session.scalars(query).all()
    for delivery in found:
        replay_delivery(session, audit, delivery)
    return len(found)
