"""Jobs whose worker was lost: it died, was killed, hung, or was cut off.

A model that ends its process, or never returns, would take down one worker after the other. So a job is
tried once more after a loss, and fails after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from dicomnode.records.audit import Audit, Event
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import JobState
from dicomnode.records.tables import JobRow
from dicomnode.settings.node import WorkerSettings
from dicomnode.work.jobs import Lease, fail_job, held_job, requeue_or_fail

AWAY_S = 2.0
"""Pause before a database that was away is asked again."""

log = structlog.get_logger()


def give_up(database: Database, audit: Audit, rules: WorkerSettings, lease: Lease, reason: str) -> None:
    """A worker that ends itself hands its job back with the reason. Raises StaleLease."""
    with database.transaction() as session:
        _lose(session, audit, held_job(session, lease), reason, rules)


class Recovery:
    """Recovers jobs of lost workers. Whose lease ran out while nobody could renew it gets time to do so."""

    def __init__(self, database: Database, audit: Audit, rules: WorkerSettings) -> None:
        self._database = database
        self._audit = audit
        self._rules = rules
        self._not_before = 0.0

    def tick(self) -> None:
        """Recover what is lost, but not within a lease after the database was away."""
        if time.monotonic() < self._not_before:
            return
        try:
            recover_lost_leases(self._database, self._audit, self._rules)
        except OperationalError:
            self._not_before = time.monotonic() + self._rules.lease_s
            raise


def recover_lost_leases(database: Database, audit: Audit, rules: WorkerSettings) -> None:
    """Queue the jobs again whose worker stopped renewing its lease, or fail them."""
    expired = (JobRow.state == JobState.RUNNING.value, JobRow.lease_expires_at < utc_now())
    with database.snapshot() as session:
        if session.scalar(select(JobRow.id).where(*expired).limit(1)) is None:
            return
    with database.transaction() as session:
        for job in session.scalars(select(JobRow).where(*expired).with_for_update(skip_locked=True)):
            reason = f"worker {job.worker} was lost in stage {job.stage or 'start'}"
            _lose(session, audit, job, reason, rules)


def _lose(session: Session, audit: Audit, job: JobRow, reason: str, rules: WorkerSettings) -> None:
    job.losses += 1
    if job.losses < rules.maximum_losses:
        requeue_or_fail(session, audit, job, reason, rules, Event.JOB_RECOVERED)
        return
    fail_job(
        session,
        audit,
        job,
        f"{reason}; {job.losses} worker(s) were lost on this job, so the model, or what it makes of this "
        "series, most likely ends or blocks the process; the log has the details, replay the job when that "
        "is mended",
    )


def insist(record: Callable[[], None]) -> None:
    """Record an outcome, again and again while the database is away; the heartbeat ends what takes too long.

    Raises StaleLease, also when it was recorded before and only the answer was lost.
    """
    while True:
        try:
            return record()
        except OperationalError as error:
            log.warning("outcome_waits", error=type(error).__name__)
            time.sleep(AWAY_S)
