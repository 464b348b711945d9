"""What a clock that was set back would leave waiting: times further ahead than any pause can be.

Pauses, leases and arrivals are kept by the wall clock, since they outlive processes. When it is set back by a
day, everything would wait for a day. So times that cannot be true are pulled back. A clock that is set
forward ends pauses and leases early, which costs a repetition and loses nothing: fencing tokens see to that.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import InstrumentedAttribute

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.commitment_tables import CommitmentReportRow
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.tables import DeliveryRow, DestinationRow, JobRow, StudyRow
from dicomnode.settings.node import Settings

MARGIN_S = 60.0
Column = InstrumentedAttribute[Any]


def pull_back(settings: Settings, database: Database, audit: Audit) -> None:
    """Pull times that lie impossibly far ahead back to now, and record that it was done.

    Leases begin anew instead: their workers live, as far as anybody knows.
    """
    now = utc_now()
    found = []
    for column, longest_s, among in _pending(settings):
        limit = now + timedelta(seconds=longest_s + MARGIN_S)
        ahead = (column > limit, *among)
        then = now + timedelta(seconds=longest_s) if column is JobRow.lease_expires_at else now
        with database.snapshot() as session:
            if session.scalar(select(column).where(*ahead).limit(1)) is not None:
                found.append((column, ahead, then))
    if not found:
        return
    with database.transaction() as session:
        counts: Counter[str] = Counter()
        for column, ahead, then in found:
            changed: Any = session.execute(update(column.class_).where(*ahead).values({column.key: then}))
            counts[f"{column.class_.__tablename__}.{column.key}"] += changed.rowcount
        audit.record(session, Event.CLOCK_SET_BACK, Subject(), pulled_back=counts)


def _pending(settings: Settings) -> list[tuple[Column, float, tuple[Any, ...]]]:
    """Each time that something waits for, how far ahead it can be, and in which rows."""
    job_pause_s = settings.worker.retry_delay_s * 2**settings.worker.maximum_attempts
    pause_s = settings.delivery.longest_delay_s
    queued = (JobRow.state == JobState.QUEUED.value,)
    running = (JobRow.state == JobState.RUNNING.value,)
    waiting = (DeliveryRow.state == DeliveryState.WAITING.value,)
    stored = (DeliveryRow.state == DeliveryState.STORED.value,)
    commitment_s = max(pause_s, settings.delivery.commitment_timeout_s)
    receiving = (StudyRow.state == StudyState.RECEIVING.value,)
    return [
        (JobRow.not_before, job_pause_s, queued),
        (JobRow.lease_expires_at, settings.worker.lease_s, running),
        (DeliveryRow.not_before, pause_s, waiting),
        (DeliveryRow.not_before, commitment_s, stored),
        (CommitmentReportRow.not_before, pause_s, ()),
        (DestinationRow.not_before, pause_s, ()),
        (StudyRow.first_received_at, 0.0, receiving),
        (StudyRow.last_received_at, 0.0, receiving),
    ]
