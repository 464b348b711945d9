"""The tables. An administrator may read them with plain SQL: states are words, times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Computed,
    ForeignKey,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dicomnode.records.column_types import LargeNumber, UtcDateTime, Words
from dicomnode.records.states import BreakerState, DeliveryState, JobState, StudyState


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), str: Words()}  # noqa: RUF012


class InstanceRow(Base):
    """One stored content of one SOP instance. The same UID with other content is a new version."""

    __tablename__ = "instances"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "sha256"),
        Index("instances_by_study", "study_instance_uid", "series_instance_uid"),
        Index("instances_by_series", "series_instance_uid"),
    )

    id: Mapped[int] = mapped_column(LargeNumber, primary_key=True)
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    study_instance_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_instance_uid"))
    series_instance_uid: Mapped[str]
    version: Mapped[int]
    same_as: Mapped[int | None] = mapped_column(LargeNumber)
    """Id of the row that says the same in another encoding; this one is never input then."""
    own_result: Mapped[bool]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(LargeNumber)
    path: Mapped[str]
    calling_ae_title: Mapped[str]
    calling_address: Mapped[str]
    received_at: Mapped[datetime]
    """When these bytes came; again, when they were sent again after they were purged."""
    purged_at: Mapped[datetime | None]
    """Since when the file is gone by retention; None: it is here."""


class StudyRow(Base):
    """One study and where it stands."""

    __tablename__ = "studies"
    __table_args__ = (
        Index("studies_by_time", "last_received_at", "study_instance_uid"),
        Index("studies_by_state", "state", "last_received_at", "study_instance_uid"),
        Index("studies_by_peer", "calling_ae_title", "last_received_at", "study_instance_uid"),
        Index("studies_by_patient", "patient_id"),
        Index("studies_held", "state", "held_reason"),
    )

    study_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default=StudyState.RECEIVING.value)
    generation: Mapped[int] = mapped_column(default=1)
    """Grows each time a late instance reopens the study."""
    patient_id: Mapped[str]
    accession_number: Mapped[str] = mapped_column(index=True)
    calling_ae_title: Mapped[str]
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    released_at: Mapped[datetime | None]
    """When an association was last released that had brought several images, of this study among others."""
    expected_count: Mapped[int | None]
    completed_at: Mapped[datetime | None]
    completed_by: Mapped[str | None]
    received_count: Mapped[int | None]
    """Instances that were here when the study was closed, counted as the sending peer counts."""
    missing: Mapped[str | None]
    """What was known to be missing when the study was closed, in words for its reports."""
    urgency: Mapped[str | None]
    """RequestedProcedurePriority (0040,1003): the most urgent that an image of the study says."""
    held_reason: Mapped[str | None]
    """Why a complete study is not routed yet."""


class DecisionRow(Base):
    """Why a series of one generation of a study was routed, or why not."""

    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_by_study", "study_instance_uid", "generation"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_instance_uid"))
    generation: Mapped[int]
    series_instance_uid: Mapped[str]
    routed: Mapped[bool]
    route: Mapped[str | None]
    model: Mapped[str | None]
    reason: Mapped[str]
    checks: Mapped[dict[str, Any]]
    decided_at: Mapped[datetime]


class JobRow(Base):
    """One series on its way through one model."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("series_instance_uid", "model_digest", "input_digest"),
        Index("jobs_by_state", "state", "not_before"),
        Index("jobs_by_model", "model", "id"),
        Index("jobs_by_rank", "state", "shadow", "ranked_at"),
        Index("jobs_by_end", "finished_at"),
        Index("jobs_listed", "state", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(ForeignKey("studies.study_instance_uid"), index=True)
    series_instance_uid: Mapped[str]
    generation: Mapped[int]
    route: Mapped[str]
    destinations: Mapped[dict[str, Any]]
    model: Mapped[str]
    model_digest: Mapped[str]
    input_digest: Mapped[str]
    notes: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(default=JobState.QUEUED.value)
    stage: Mapped[str | None]
    priority: Mapped[int]
    ranked_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    """Creation, moved back for urgent jobs and forward for others: the earliest is worked on first."""
    shadow: Mapped[bool] = mapped_column(default=False)
    """Works only when no other job waits; its results are stored, never sent."""
    attempt: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    """Attempts that ended with the loss of the worker."""
    not_before: Mapped[datetime]
    worker: Mapped[str | None]
    fencing_token: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]
    summary: Mapped[dict[str, Any] | None]
    """What came out, in numbers."""


class ResultRow(Base):
    """One object that we made."""

    __tablename__ = "results"

    sop_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str]
    sop_class_uid: Mapped[str]
    study_instance_uid: Mapped[str] = mapped_column(index=True)
    series_instance_uid: Mapped[str] = mapped_column(index=True)
    instance_number: Mapped[int]
    sha256: Mapped[str]
    path: Mapped[str]
    created_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]
    """Since when the file is gone by retention; None: it is here."""


class DeliveryRow(Base):
    """The outbox: one result on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "destination"),
        Index("deliveries_by_state", "state", "destination", "not_before"),
        Index("deliveries_by_arrival", "destination", "delivered_at"),
        Index("deliveries_listed", "state", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(ForeignKey("results.sop_instance_uid"))
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    destination: Mapped[str]
    state: Mapped[str] = mapped_column(default=DeliveryState.WAITING.value)
    attempt: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    lease_expires_at: Mapped[datetime | None]
    last_status: Mapped[str | None]
    delivered_at: Mapped[datetime | None]
    transaction_uid: Mapped[str | None]
    """Of the last request for storage commitment."""
    commitment_attempt: Mapped[int] = mapped_column(default=0)
    """How often commitment was asked for since it was sent."""


class DestinationRow(Base):
    """How a destination has behaved of late: its circuit breaker."""

    __tablename__ = "destinations"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default=BreakerState.CLOSED.value)
    failures: Mapped[int] = mapped_column(default=0)
    """In a row: associations that could not be had, or on which nothing was answered."""
    not_before: Mapped[datetime | None]
    """Nothing is sent earlier."""
    lost_at: Mapped[datetime | None]
    reason: Mapped[str | None]


WORKER = "worker "
BUSY_ACTORS = ("receiver", "assembly", "routing", "delivery")
SELDOM = (
    f"actor NOT IN ({', '.join(map(repr, BUSY_ACTORS))}) AND substr(actor, 1, {len(WORKER)}) <> '{WORKER}'"
)
"""True of the events of people, and of machines that do little; these words are those of an index."""


class AuditRow(Base):
    """One fact. Rows are only ever added; each carries the digest of the one before."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("audit_events_by_study", "study_instance_uid", "id"),
        Index("audit_events_by_time", "at", "id"),
        Index("audit_events_by_kind", "event", "at", "id"),
        Index("audit_events_by_peer", "peer", "at", "id"),
        Index(
            "audit_events_without_study",
            "sop_instance_uid",
            sqlite_where=text("study_instance_uid IS NULL"),
            postgresql_where=text("study_instance_uid IS NULL"),
        ),
        Index(
            "audit_events_of_few",
            "actor",
            "at",
            "id",
            sqlite_where=text(SELDOM),
            postgresql_where=text(SELDOM),
        ),
    )

    id: Mapped[int] = mapped_column(LargeNumber, primary_key=True)
    at: Mapped[datetime]
    event: Mapped[str]
    actor: Mapped[str]
    study_instance_uid: Mapped[str | None]
    series_instance_uid: Mapped[str | None]
    sop_instance_uid: Mapped[str | None]
    job_id: Mapped[int | None] = mapped_column(index=True)
    detail: Mapped[dict[str, Any]]
    previous_sha256: Mapped[str]
    sha256: Mapped[str]
    peer: Mapped[str | None] = mapped_column(
        Computed(
            "coalesce(json_extract(detail, '$.calling_ae_title'), json_extract(detail, '$.destination'))"
        )
    )
    """Who sent, or where a result goes, out of the detail; the migration has the words of PostgreSQL."""
