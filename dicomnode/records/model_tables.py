"""The tables of models: what each may do here, and how candidates compare with what is live."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from dicomnode.records.tables import Base


class ModelRow(Base):
    """One version of a model, by its digest, and its state at this site."""

    __tablename__ = "models"
    __table_args__ = (
        Index(
            "one_live_version",
            "name",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
    )

    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    state: Mapped[str]
    replaced_by: Mapped[str | None]
    """Digest of the version that took its place as the live one; a rollback goes back along these."""
    changed_at: Mapped[datetime]
    changed_by: Mapped[str]
    reason: Mapped[str]
    """Of the last change."""


class ComparisonRow(Base):
    """What the live model and a candidate saw in the same series. Without `compared_at` it is due."""

    __tablename__ = "comparisons"
    __table_args__ = (
        UniqueConstraint("live_job_id", "candidate_job_id"),
        Index("comparisons_by_models", "live_digest", "candidate_digest", "dice"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(index=True)
    series_instance_uid: Mapped[str]
    live_job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    candidate_job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    live_digest: Mapped[str]
    candidate_digest: Mapped[str]
    compared_at: Mapped[datetime | None] = mapped_column(index=True)
    error: Mapped[str | None]
    """Why the two could not be compared."""
    live_voxels: Mapped[int | None]
    candidate_voxels: Mapped[int | None]
    common_voxels: Mapped[int | None]
    """Voxels that both give the same label."""
    dice: Mapped[float | None]
    """Absent when neither saw anything."""
    live_volume_mm3: Mapped[float | None]
    candidate_volume_mm3: Mapped[float | None]
    found_by_both: Mapped[int | None]
    only_live: Mapped[int | None]
    only_candidate: Mapped[int | None]
    lesions: Mapped[dict[str, Any] | None]
    """Which lesion of one is which of the other, with their voxels."""
