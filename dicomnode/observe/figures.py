"""The figures of this moment, asked of the database: how many, how old, since when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicomnode.records.states import BreakerState, DeliveryState, JobState, StudyState
from dicomnode.records.tables import DeliveryRow, DestinationRow, JobRow, ResultRow, StudyRow
from dicomnode.records.watch_tables import PeerCheckRow

S = TypeVar("S", bound=StrEnum)

FINISHED: frozenset[StrEnum] = frozenset(
    {
        StudyState.ROUTED,
        StudyState.IGNORED,
        JobState.SUCCEEDED,
        JobState.SUPERSEDED,
        DeliveryState.DELIVERED,
    }
)
"""Where almost everything ends."""


class Queue(StrEnum):
    """Where something can wait."""

    RECEIVING_STUDIES = "receiving_studies"
    QUEUED_JOBS = "queued_jobs"
    WAITING_DELIVERIES = "waiting_deliveries"


@dataclass(frozen=True)
class Destination:
    """How deliveries to one peer fare."""

    states: Mapping[DeliveryState, int]
    last_success: datetime | None
    attempts: int
    """Most attempts that any waiting delivery has behind it; 0 when nothing had to be tried again."""
    breaker: BreakerState


@dataclass(frozen=True)
class Figures:
    """One moment of the node."""

    studies: Mapping[StudyState, int]
    jobs: Mapping[JobState, int]
    oldest: Mapping[Queue, datetime]
    """Since when the oldest of each queue waits; absent when the queue is empty."""
    destinations: Mapping[str, Destination]
    peers_up: Mapping[str, bool]

    def age_s(self, queue: Queue, now: datetime) -> float:
        """Seconds that the oldest of a queue has waited, 0 when it is empty."""
        since = self.oldest.get(queue)
        return max(0.0, (now - since).total_seconds()) if since else 0.0


def read_figures(session: Session, destinations: frozenset[str], *, finished: bool = True) -> Figures:
    """All figures from one snapshot; `destinations` are told of even before anything was sent to them.

    Without `finished`, what ended well is not counted: it is most of what there is after years, and counting
    means reading it.
    """
    left_out = frozenset() if finished else FINISHED
    return Figures(
        studies=_count(session, StudyRow.state, [s for s in StudyState if s not in left_out]),
        jobs=_count(session, JobRow.state, [s for s in JobState if s not in left_out]),
        oldest=_oldest(session),
        destinations=_destinations(session, destinations, [s for s in DeliveryState if s not in left_out]),
        peers_up={row.peer: row.failing_since is None for row in session.scalars(select(PeerCheckRow))},
    )


def _count(session: Session, column: InstrumentedAttribute[str], states: Sequence[S]) -> dict[S, int]:
    query = select(column, func.count()).where(column.in_(states)).group_by(column)
    found = {state: count for state, count in session.execute(query)}
    return {state: found.get(state.value, 0) for state in states}


def _oldest(session: Session) -> dict[Queue, datetime]:
    receiving = select(func.min(StudyRow.first_received_at)).where(
        StudyRow.state == StudyState.RECEIVING.value
    )
    queued = select(func.min(JobRow.created_at)).where(
        JobRow.state == JobState.QUEUED.value,
        JobRow.shadow.is_(False),  # those in shadow may wait
    )
    waiting = (
        select(func.min(ResultRow.created_at))
        .join(DeliveryRow, DeliveryRow.sop_instance_uid == ResultRow.sop_instance_uid)
        .where(DeliveryRow.state.in_((DeliveryState.WAITING.value, DeliveryState.SENDING.value)))
    )
    asked = {
        Queue.RECEIVING_STUDIES: receiving,
        Queue.QUEUED_JOBS: queued,
        Queue.WAITING_DELIVERIES: waiting,
    }
    found = {queue: session.scalar(query) for queue, query in asked.items()}
    return {queue: since for queue, since in found.items() if since is not None}


def _destinations(
    session: Session, known: frozenset[str], states: Sequence[DeliveryState]
) -> dict[str, Destination]:
    """Each query runs along an index: a scrape must not read every delivery that ever was."""
    counts: dict[str, dict[DeliveryState, int]] = {}
    key = (DeliveryRow.state, DeliveryRow.destination)
    for state, name, count in session.execute(
        select(*key, func.count()).where(DeliveryRow.state.in_(states)).group_by(*key)
    ):
        counts.setdefault(name, {})[DeliveryState(state)] = count
    waiting = session.execute(
        select(DeliveryRow.destination, func.max(DeliveryRow.attempt))
        .where(DeliveryRow.state == DeliveryState.WAITING.value)
        .group_by(DeliveryRow.destination)
    )
    attempts = {name: attempt for name, attempt in waiting}
    breakers = {row.name: BreakerState(row.state) for row in session.scalars(select(DestinationRow))}
    return {
        name: Destination(
            {state: counts.get(name, {}).get(state, 0) for state in states},
            session.scalar(select(func.max(DeliveryRow.delivered_at)).where(DeliveryRow.destination == name)),
            attempts.get(name) or 0,
            breakers.get(name, BreakerState.CLOSED),
        )
        for name in sorted(known | set(counts))
    }
