"""Pages through the audit trail, newest first: what happened, when, by and with whom, by which model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.records.actors import by_whom
from dicomnode.records.audit import Event
from dicomnode.records.tables import AuditRow, JobRow

FEW_JOBS = 1000
"""Up to here the jobs of a model are named one by one; of a busier model the newest events come soon."""


class Outcome(IntEnum):
    """EventOutcomeIndicator of DICOM audit messages (PS3.15 A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    """It went on or is tried again."""
    SERIOUS_FAILURE = 8
    """It ended without its result."""
    MAJOR_FAILURE = 12
    """The node itself is no longer what it should be."""


_FAILURES: dict[str, Outcome] = {
    Event.ASSOCIATION_REJECTED: Outcome.MINOR_FAILURE,
    Event.ASSOCIATION_CUT: Outcome.MINOR_FAILURE,
    Event.INSTANCE_ALTERED: Outcome.MINOR_FAILURE,
    Event.INSTANCE_REFUSED: Outcome.MINOR_FAILURE,
    Event.DISK_LOW: Outcome.MAJOR_FAILURE,
    Event.STUDY_HELD: Outcome.MINOR_FAILURE,
    Event.STUDY_PARKED: Outcome.SERIOUS_FAILURE,
    Event.STAGE_FAILED: Outcome.MINOR_FAILURE,
    Event.JOB_FAILED: Outcome.SERIOUS_FAILURE,
    Event.JOB_RETRIED: Outcome.MINOR_FAILURE,
    Event.JOB_RECOVERED: Outcome.MINOR_FAILURE,
    Event.RESULT_LEFT_OUT: Outcome.SERIOUS_FAILURE,
    Event.DELIVERY_RETRIED: Outcome.MINOR_FAILURE,
    Event.DELIVERY_DEAD: Outcome.SERIOUS_FAILURE,
    Event.DESTINATION_LOST: Outcome.SERIOUS_FAILURE,
    Event.COMMITMENT_POSTPONED: Outcome.MINOR_FAILURE,
    Event.COMMITMENT_REPORT_RETRIED: Outcome.MINOR_FAILURE,
    Event.COMMITMENT_REPORT_DEAD: Outcome.SERIOUS_FAILURE,
    Event.CERTIFICATE_NOT_RELOADED: Outcome.SERIOUS_FAILURE,
    Event.LOGIN_FAILED: Outcome.MINOR_FAILURE,
    Event.PROCESS_DIED: Outcome.SERIOUS_FAILURE,
    Event.ALERT_BEGAN: Outcome.SERIOUS_FAILURE,
}


def outcome_of(event: str) -> Outcome:
    """How bad an event is; what is not a failure is a success."""
    return _FAILURES.get(event, Outcome.SUCCESS)


def events_with(outcome: Outcome) -> frozenset[Event]:
    """The kinds of events that have this outcome."""
    return frozenset(event for event in Event if outcome_of(event) is outcome)


OUTCOMES = {
    "failure": frozenset(Event) - events_with(Outcome.SUCCESS),
    **{outcome.name.lower(): events_with(outcome) for outcome in Outcome},
}
"""What may be asked for as an outcome, with the kinds of events that have it."""


@dataclass(frozen=True)
class EventFilter:
    """Which events; None or empty leaves a question open."""

    events: frozenset[Event] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    """At or after `since`, and before `until`."""
    peer: str | None = None
    """Calling AE title of who sent, or name of the destination."""
    model: str | None = None
    """Name of a model: everything that its jobs did."""
    who: str | None = None
    """A person, or an actor as the trail tells of it (`actors.py`)."""


def event_page(
    session: Session, wanted: EventFilter, before: int | None = None, limit: int = 50
) -> list[AuditRow]:
    """The newest events, newest first; only those before the event with id `before`, if given.

    Raises PermanentError when there is no such event.
    """
    query = _among(session, wanted)
    if before is not None:
        edge = session.get(AuditRow, before)
        if edge is None:
            raise PermanentError(f"there is no event {before}; begin with the newest")
        query = query.where(tuple_(AuditRow.at, AuditRow.id) < (edge.at, edge.id))
    query = query.order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit)
    # One kind at a time runs along an index; all kinds in one question would walk the whole trail.
    of_each_kind = [query.where(AuditRow.event == event.value) for event in wanted.events] or [query]
    found = [row for each in of_each_kind for row in session.scalars(each)]
    return sorted(found, key=lambda row: (row.at, row.id), reverse=True)[:limit]


def events_in_order(session: Session, wanted: EventFilter) -> Iterator[AuditRow]:
    """All events that are wanted, oldest first; they are not all in memory at once."""
    query = _among(session, wanted).order_by(AuditRow.at, AuditRow.id)
    if wanted.events:
        query = query.where(AuditRow.event.in_([event.value for event in wanted.events]))
    yield from session.scalars(query.execution_options(yield_per=1000))


def _among(session: Session, wanted: EventFilter) -> Select[AuditRow]:
    query = select(AuditRow)
    if wanted.since:
        query = query.where(AuditRow.at >= wanted.since)
    if wanted.until:
        query = query.where(AuditRow.at < wanted.until)
    if wanted.peer is not None:
        query = query.where(AuditRow.peer == wanted.peer)
    if wanted.who is not None:
        query = by_whom(session, query, wanted.who)
    if wanted.model is not None:
        jobs = session.scalars(
            select(JobRow.id).where(JobRow.model == wanted.model).limit(FEW_JOBS + 1)
        ).all()
        if len(jobs) <= FEW_JOBS:
            return query.where(AuditRow.job_id.in_(jobs))
        of_model = select(JobRow.id).where(JobRow.id == AuditRow.job_id, JobRow.model == wanted.model)
        query = query.where(of_model.exists())
    return query
