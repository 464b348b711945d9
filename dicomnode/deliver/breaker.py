"""One circuit breaker for each destination: a peer that is away is asked rarely, and told of once.

A failure is an association that could not be had, or on which the peer answered nothing. What is refused
or accepted on an association is a matter of the object (answers.py), and shows that the peer is there.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.deliver.answers import PeerUnavailable
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import BreakerState, DeliveryState, moved
from dicomnode.records.tables import DeliveryRow, DestinationRow
from dicomnode.settings.node import DeliverySettings

BATCH = 50
PROBE = 1
CHANCE = random.Random()
"""Spreads load; not for secrets."""

log = structlog.get_logger()


def retry_delay_s(attempt: int, rules: DeliverySettings, chance: random.Random = CHANCE) -> float:
    """Exponential back-off with jitter: half to all of first_delay * 2^(attempt-1), capped."""
    longest = min(rules.longest_delay_s, rules.first_delay_s * 2.0 ** min(attempt - 1, 30))
    return longest * chance.uniform(0.5, 1.0)


class Breaker:
    """The breakers of all destinations, kept in the database, where a restart finds them again."""

    def __init__(self, rules: DeliverySettings, database: Database, audit: Audit) -> None:
        self._rules = rules
        self._database = database
        self._audit = audit

    def allowance(self, destination: str) -> int:
        """How many objects may be sent now: none during a pause, one to see whether the peer is back."""
        now = utc_now()
        with self._database.snapshot() as session:
            row = session.get(DestinationRow, destination)
            if row is None:
                return BATCH
            if row.not_before is not None and row.not_before > now:
                return 0
            if row.state == BreakerState.CLOSED:
                return BATCH
        with self._database.transaction() as session:
            row = session.get_one(DestinationRow, destination)
            if row.state == BreakerState.OPEN:
                row.state = moved(BreakerState(row.state), BreakerState.HALF_OPEN).value
        return PROBE

    def failed(self, destination: str, failure: PeerUnavailable) -> None:
        """Count a failure: a pause follows, and from some number on the destination is lost."""
        with self._database.transaction() as session:
            row = session.get(DestinationRow, destination)
            if row is None:
                row = DestinationRow(name=destination, state=BreakerState.CLOSED.value, failures=0)
                session.add(row)
            now = utc_now()
            row.failures += 1
            row.reason = str(failure)
            row.not_before = now + timedelta(seconds=self._pause_s(row.failures, failure.lasting))
            if row.state == BreakerState.HALF_OPEN:
                row.state = moved(BreakerState(row.state), BreakerState.OPEN).value
            elif row.state == BreakerState.CLOSED and (
                failure.lasting or row.failures >= self._rules.failures_until_lost
            ):
                self._lose(session, row, now)

    def answered(self, destination: str) -> None:
        """The peer answers: nothing is held against it any more."""
        with self._database.snapshot() as session:
            row = session.get(DestinationRow, destination)
            if row is None or row.failures == 0:
                return
        with self._database.transaction() as session:
            row = session.get_one(DestinationRow, destination)
            if row.state == BreakerState.HALF_OPEN:
                row.state = moved(BreakerState(row.state), BreakerState.CLOSED).value
                lost_s = (utc_now() - row.lost_at).total_seconds() if row.lost_at else 0.0
                detail = {"lost_s": round(lost_s, 1), "failures": row.failures}
                self._audit.record(
                    session, Event.DESTINATION_BACK, Subject(), destination=destination, **detail
                )
                log.info("destination_back", destination=destination, **detail)
            row.failures, row.not_before, row.lost_at, row.reason = 0, None, None, None

    def _pause_s(self, failures: int, lasting: bool) -> float:
        """As for objects; who rejects us for good is not asked again before the longest pause is over."""
        return self._rules.longest_delay_s if lasting else retry_delay_s(failures, self._rules)

    def _lose(self, session: Session, row: DestinationRow, now: datetime) -> None:
        """The one alert, however much waits and however long the peer stays away."""
        row.state = moved(BreakerState(row.state), BreakerState.OPEN).value
        row.lost_at = now
        waiting_count = session.scalar(
            select(func.count()).where(
                DeliveryRow.destination == row.name, DeliveryRow.state == DeliveryState.WAITING.value
            )
        )
        detail = {"reason": row.reason, "failures": row.failures, "waiting_count": waiting_count}
        self._audit.record(session, Event.DESTINATION_LOST, Subject(), destination=row.name, **detail)
        log.error("destination_lost", destination=row.name, **detail)


def probe_now(session: Session, audit: Audit, destination: str) -> bool:
    """End the pause of a destination by hand; False when it has none."""
    row = session.get(DestinationRow, destination)
    if row is None or row.not_before is None:
        return False
    row.not_before = None
    audit.record(session, Event.DESTINATION_REPLAYED, Subject(), destination=destination)
    return True
