"""The job queue: lease one, finish it or hand it back. Every move is audited.

A lease is held by a worker that renews it; the fencing token grows with every lease, so a worker
that was paused and lost its lease cannot publish what it made (StaleLease).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicomnode.errors import StaleLease
from dicomnode.forms import Wanted, wants
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import JobState, moved
from dicomnode.records.tables import JobRow, ResultRow
from dicomnode.settings.node import WorkerSettings
from dicomnode.work.orders import post
from dicomnode.work.pairs import pair
from dicomnode.work.share import EVERYTHING, Share


@dataclass(frozen=True)
class NewResult:
    """One object that a job made, already written to `path`."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    instance_number: int
    sha256: str
    path: Path


@dataclass(frozen=True)
class Lease:
    """The right to work on one job until it expires or is lost."""

    job_id: int
    fencing_token: int


class JobQueue:
    """The queue as one worker sees it."""

    def __init__(
        self, database: Database, audit: Audit, rules: WorkerSettings, worker: str, wanted: Wanted
    ) -> None:
        self._database = database
        self._audit = audit
        self._rules = rules
        self._worker = worker
        self._wanted = wanted

    def has_work(self, share: Share) -> bool:
        """Whether a job of these models is due."""
        with self._database.snapshot() as session:
            return session.scalar(_due(utc_now(), share).with_only_columns(JobRow.id)) is not None

    def lease_next(self, share: Share = EVERYTHING) -> tuple[Lease, JobRow] | None:
        """Lease the most urgent job of these models that is due, or None when there is nothing to do."""
        now = utc_now()
        if not self.has_work(share):
            return None
        with self._database.transaction(beside_others=True) as session:
            job = session.scalar(_due(now, share).with_for_update(skip_locked=True))
            if job is None:
                return None
            job.state = moved(JobState(job.state), JobState.RUNNING).value
            job.attempt += 1
            job.fencing_token += 1
            job.worker = self._worker
            job.lease_expires_at = now + timedelta(seconds=self._rules.lease_s)
            job.started_at = now
            job.stage = None
            self._audit.record(
                session,
                Event.JOB_STARTED,
                Subject.of_job(job),
                attempt=job.attempt,
                worker=self._worker,
                model=job.model,
                model_digest=job.model_digest,
            )
            return Lease(job.id, job.fencing_token), job

    def renew(self, lease: Lease) -> bool:
        """Extend the lease; False when it was lost."""
        with self._database.transaction(beside_others=True) as session:
            renewed: Any = session.execute(
                update(JobRow)
                .where(*_held(lease))
                .values(lease_expires_at=utc_now() + timedelta(seconds=self._rules.lease_s))
            )
            return bool(renewed.rowcount == 1)

    def succeed(self, lease: Lease, results: tuple[NewResult, ...], summary: dict[str, Any]) -> None:
        """Publish: results, deliveries and success in one transaction. Raises StaleLease."""
        with self._database.transaction() as session:
            job = held_job(session, lease)
            for result in results:
                self._publish(session, job, result)
            for kind, error in summary.get("left_out", {}).items():
                self._tell_left_out(session, job, kind, error)
            end_job(job, JobState.SUCCEEDED)
            job.summary = summary
            pair(session, job)
            assert job.started_at is not None and job.finished_at is not None
            duration_s = round((job.finished_at - job.started_at).total_seconds(), 3)
            self._audit.record(
                session,
                Event.JOB_SUCCEEDED,
                Subject.of_job(job),
                duration_s=duration_s,
                model_digest=job.model_digest,
                worker=self._worker,
                **summary,
            )

    def _publish(self, session: Session, job: JobRow, result: NewResult) -> None:
        subject = Subject(job.study_instance_uid, result.series_instance_uid, result.sop_instance_uid, job.id)
        superseded = _superseded_by(session, job, result)
        if session.get(ResultRow, result.sop_instance_uid) is None:
            row = ResultRow(
                sop_instance_uid=result.sop_instance_uid,
                job_id=job.id,
                kind=result.kind,
                sop_class_uid=result.sop_class_uid,
                study_instance_uid=job.study_instance_uid,
                series_instance_uid=result.series_instance_uid,
                instance_number=result.instance_number,
                sha256=result.sha256,
                path=str(result.path),
                created_at=utc_now(),
            )
            session.add(row)
            session.flush()
            post(session, job, row, job.destinations["names"], self._wanted)
        link = {"supersedes": superseded} if superseded else {}
        self._audit.record(
            session, Event.RESULT_CREATED, subject, kind=result.kind, sha256=result.sha256, **link
        )

    def _tell_left_out(self, session: Session, job: JobRow, kind: str, error: str) -> None:
        """For the destinations that wait for this form, which may have asked for no other."""
        waiting = [name for name in job.destinations["names"] if wants(self._wanted, name, kind)]
        self._audit.record(
            session, Event.RESULT_LEFT_OUT, Subject.of_job(job), kind=kind, error=error, destinations=waiting
        )

    def fail(self, lease: Lease, reason: str) -> None:
        """The job will not be tried again unless an administrator replays it. Raises StaleLease."""
        with self._database.transaction() as session:
            job = held_job(session, lease)
            fail_job(session, self._audit, job, reason)

    def supersede(self, lease: Lease, reason: str) -> None:
        """The input changed: end this job without a result. Raises StaleLease."""
        with self._database.transaction() as session:
            supersede_job(session, self._audit, held_job(session, lease), reason)

    def withhold(self, lease: Lease) -> None:
        """Its model may not send any more: the job goes on in shadow. Raises StaleLease."""
        with self._database.transaction() as session:
            put_in_shadow(held_job(session, lease))

    def retry_later(self, lease: Lease, reason: str, *, counts: bool = True) -> None:
        """Hand the job back after a transient error, or fail it when it was tried often enough.

        What is the fault of this machine and of no job does not count as an attempt.
        """
        with self._database.transaction() as session:
            job = held_job(session, lease)
            if not counts:
                job.attempt -= 1
            requeue_or_fail(session, self._audit, job, reason, self._rules, Event.JOB_RETRIED)


def _superseded_by(session: Session, job: JobRow, result: NewResult) -> str | None:
    """SOP Instance UID of the object of the same series and kind that readers had before this one."""
    return session.scalar(
        select(ResultRow.sop_instance_uid)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .where(
            JobRow.shadow.is_(job.shadow),
            ResultRow.series_instance_uid == result.series_instance_uid,
            ResultRow.kind == result.kind,
            ResultRow.instance_number < result.instance_number,
            ResultRow.job_id < job.id,
        )
        .order_by(ResultRow.job_id.desc(), ResultRow.instance_number.desc())
        .limit(1)
    )


def _due(now: datetime, share: Share) -> Any:
    return (
        select(JobRow)
        .where(JobRow.state == JobState.QUEUED.value, JobRow.not_before <= now, *_of(share))
        .order_by(JobRow.shadow, JobRow.ranked_at, JobRow.id)
        .limit(1)
    )


def _of(share: Share) -> tuple[Any, ...]:
    if share.others:
        return (JobRow.model.not_in(sorted(share.names)),) if share.names else ()
    return (JobRow.model.in_(sorted(share.names)),)


def _held(lease: Lease) -> tuple[Any, ...]:
    return (
        JobRow.id == lease.job_id,
        JobRow.fencing_token == lease.fencing_token,
        JobRow.state == JobState.RUNNING.value,
    )


def held_job(session: Session, lease: Lease) -> JobRow:
    """The job of a lease that still holds. Raises StaleLease."""
    job = session.scalar(select(JobRow).where(*_held(lease)).with_for_update())
    if job is None:
        raise StaleLease(f"job {lease.job_id} belongs to another worker now; nothing is published")
    return job


def end_job(job: JobRow, state: JobState) -> None:
    """Move a job to an end state."""
    job.state = moved(JobState(job.state), state).value
    job.finished_at = utc_now()
    job.lease_expires_at = None


def fail_job(session: Session, audit: Audit, job: JobRow, reason: str) -> None:
    """A job fails for good."""
    end_job(job, JobState.FAILED)
    job.error = reason
    audit.record(session, Event.JOB_FAILED, Subject.of_job(job), reason=reason, attempt=job.attempt)


def put_in_shadow(job: JobRow) -> None:
    """The results of a job will be stored, but not sent."""
    job.destinations, job.shadow = {"names": []}, True


def supersede_job(session: Session, audit: Audit, job: JobRow, reason: str) -> None:
    """A job ends without a result because it is not needed any more."""
    end_job(job, JobState.SUPERSEDED)
    audit.record(session, Event.JOB_SUPERSEDED, Subject.of_job(job), reason=reason)


def requeue_or_fail(
    session: Session, audit: Audit, job: JobRow, reason: str, rules: WorkerSettings, event: Event
) -> None:
    """Queue a running job again with a growing delay, or fail it after the last attempt."""
    if job.attempt >= rules.maximum_attempts:
        fail_job(session, audit, job, f"{reason} (attempt {job.attempt} of {rules.maximum_attempts})")
        return
    delay_s = rules.retry_delay_s * 2 ** max(0, job.attempt - 1)
    job.state = moved(JobState(job.state), JobState.QUEUED).value
    job.not_before = utc_now() + timedelta(seconds=delay_s)
    job.lease_expires_at = None
    job.error = reason
    audit.record(session, event, Subject.of_job(job), reason=reason, attempt=job.attempt, delay_s=delay_s)
