"""The tables of storage commitment (PS3.4 annex J), in both directions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicomnode.records.tables import Base


class CommitmentRequestRow(Base):
    """That we asked a destination to commit to the results of one job."""

    __tablename__ = "commitment_requests"

    transaction_uid: Mapped[str] = mapped_column(primary_key=True)
    destination: Mapped[str]
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    asked_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]


class CommitmentReportRow(Base):
    """That a sender asked us to commit, and what became of our report to it."""

    __tablename__ = "commitment_reports"
    __table_args__ = (
        UniqueConstraint("peer", "transaction_uid"),
        Index("commitment_reports_by_state", "state", "peer", "not_before"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    peer: Mapped[str]
    transaction_uid: Mapped[str]
    referenced: Mapped[dict[str, Any]]
    """{"instances": [[SOP Class UID, SOP Instance UID], ...]}"""
    asked_at: Mapped[datetime]
    state: Mapped[str]
    """waiting, reported or dead."""
    attempt: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    reported_at: Mapped[datetime | None]
    last_status: Mapped[str | None]
