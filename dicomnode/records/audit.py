"""The audit trail: what is recorded, about what, and by whom.

An event is recorded in the same transaction as the change that it tells of, so neither exists without
the other. Rows are only ever added, and each is sealed with the digest of the one before (`chain.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from dicomnode.errors import NodeError
from dicomnode.records.chain import Fact, append
from dicomnode.records.column_types import without_nul
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import JobRow, ResultRow
from inference.errors import InferenceError


class Event(StrEnum):
    """Every kind of fact that is recorded."""

    NODE_STARTED = "node_started"
    CONFIGURATION_CHANGED = "configuration_changed"
    ANCHOR_WRITTEN = "anchor_written"
    AUDIT_READ = "audit_read"
    AUDIT_EXPORTED = "audit_exported"
    AUDIT_VERIFIED = "audit_verified"
    ASSOCIATION_REJECTED = "association_rejected"
    ASSOCIATION_ENDED = "association_ended"
    ASSOCIATION_CUT = "association_cut"
    CERTIFICATE_RELOADED = "certificate_reloaded"
    CERTIFICATE_NOT_RELOADED = "certificate_not_reloaded"
    INSTANCE_RECEIVED = "instance_received"
    INSTANCE_REPEATED = "instance_repeated"
    INSTANCE_RECODED = "instance_recoded"
    INSTANCE_ALTERED = "instance_altered"
    INSTANCE_REFUSED = "instance_refused"
    COMMITMENT_ASKED = "commitment_asked"
    COMMITMENT_REPORTED = "commitment_reported"
    COMMITMENT_REPORT_RETRIED = "commitment_report_retried"
    COMMITMENT_REPORT_DEAD = "commitment_report_dead"
    OWN_RESULT_RECEIVED = "own_result_received"
    INSTANCES_RETRIEVED = "instances_retrieved"
    INSTANCES_PURGED = "instances_purged"
    COMMITMENTS_PRUNED = "commitments_pruned"
    ORPHAN_REMOVED = "orphan_removed"
    DISK_LOW = "disk_low"
    DISK_RECOVERED = "disk_recovered"
    STUDY_REOPENED = "study_reopened"
    STUDY_COMPLETED = "study_completed"
    STUDY_HELD = "study_held"
    STUDY_PARKED = "study_parked"
    STUDY_REPLAYED = "study_replayed"
    SERIES_ROUTED = "series_routed"
    SERIES_NOT_ROUTED = "series_not_routed"
    JOB_CREATED = "job_created"
    JOB_STARTED = "job_started"
    STAGE_FINISHED = "stage_finished"
    STAGE_FAILED = "stage_failed"
    JOB_SUCCEEDED = "job_succeeded"
    JOB_FAILED = "job_failed"
    JOB_RETRIED = "job_retried"
    JOB_SUPERSEDED = "job_superseded"
    JOB_RECOVERED = "job_recovered"
    JOB_REPLAYED = "job_replayed"
    JOB_CHECKED = "job_checked"
    RESULT_MENDED = "result_mended"
    RESULT_CREATED = "result_created"
    RESULT_LEFT_OUT = "result_left_out"
    RESULT_STORED = "result_stored"
    COMMITMENT_REQUESTED = "commitment_requested"
    COMMITMENT_POSTPONED = "commitment_postponed"
    RESULT_DELIVERED = "result_delivered"
    DELIVERY_RETRIED = "delivery_retried"
    DELIVERY_DEAD = "delivery_dead"
    DELIVERY_REPLAYED = "delivery_replayed"
    USER_ADDED = "user_added"
    USER_CHANGED = "user_changed"
    USER_REMOVED = "user_removed"
    LOGGED_IN = "logged_in"
    LOGIN_FAILED = "login_failed"
    LOGGED_OUT = "logged_out"
    PATIENT_DATA_VIEWED = "patient_data_viewed"
    MODEL_ENROLLED = "model_enrolled"
    MODEL_CHANGED = "model_changed"
    SHADOW_SKIPPED = "shadow_skipped"
    MODELS_COMPARED = "models_compared"
    PROCESS_DIED = "process_died"
    ALERT_BEGAN = "alert_began"
    ALERT_ENDED = "alert_ended"
    BACKUP_MADE = "backup_made"
    BACKUP_RESTORED = "backup_restored"
    DATABASE_MOVED = "database_moved"
    DESTINATION_LOST = "destination_lost"
    DESTINATION_BACK = "destination_back"
    DESTINATION_REPLAYED = "destination_replayed"
    CLOCK_SET_BACK = "clock_set_back"


class Stage(StrEnum):
    """The steps of one job."""

    READ = "read"
    SEGMENT = "segment"
    MEASURE = "measure"
    ENCODE = "encode"


@dataclass(frozen=True)
class Subject:
    """What an event is about; as much of it as is known."""

    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    job_id: int | None = None

    @classmethod
    def of_job(cls, job: JobRow) -> Subject:
        """The study, series and job of a job row."""
        return cls(job.study_instance_uid, job.series_instance_uid, None, job.id)

    @classmethod
    def of_result(cls, result: ResultRow) -> Subject:
        """One of our own objects, with the job that made it."""
        return cls(
            result.study_instance_uid, result.series_instance_uid, result.sop_instance_uid, result.job_id
        )


@dataclass(frozen=True)
class Audit:
    """Records events on behalf of `actor` ("receiver", "worker cuda:0", "admin jdoe")."""

    actor: str

    def record(self, session: Session, event: Event, subject: Subject, **detail: Any) -> None:
        """Append one event within the caller's transaction. `detail` must be plain JSON values."""
        append(
            session,
            Fact(
                at=utc_now(),
                event=event.value,
                actor=without_nul(self.actor),
                study_instance_uid=subject.study_instance_uid,
                series_instance_uid=subject.series_instance_uid,
                sop_instance_uid=subject.sop_instance_uid,
                job_id=subject.job_id,
                detail=_without_nul(detail),
            ),
        )

    @contextmanager
    def stage(self, database: Database, subject: Subject, stage: Stage) -> Iterator[None]:
        """Time one stage of a job and record how it ended; a failure is recorded and goes on up."""
        _enter_stage(database, subject, stage)
        started = time.monotonic()
        try:
            yield
        except Exception as error:
            self._finish_stage(database, subject, stage, started, error=_told(error))
            raise
        self._finish_stage(database, subject, stage, started, error=None)

    def _finish_stage(
        self, database: Database, subject: Subject, stage: Stage, started: float, error: str | None
    ) -> None:
        detail: dict[str, Any] = {"stage": stage.value, "duration_s": round(time.monotonic() - started, 3)}
        if error:
            detail["error"] = error
        with database.transaction(beside_others=True) as session:
            self.record(session, Event.STAGE_FAILED if error else Event.STAGE_FINISHED, subject, **detail)


def _without_nul(value: Any) -> Any:
    """The same without NUL in any text of it: what is sealed is what the database keeps."""
    if isinstance(value, str):
        return without_nul(value)
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nul(each) for each in value]
    return value


def _told(error: Exception) -> str:
    """What the trail says of an error; the text of unforeseen ones may hold values of a data set."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, (NodeError, InferenceError, OSError)) else name


def _enter_stage(database: Database, subject: Subject, stage: Stage) -> None:
    with database.transaction(beside_others=True) as session:
        job = session.get(JobRow, subject.job_id)
        if job is not None:
            job.stage = stage.value
