"""Compares what is due: a candidate and the live model have both looked at the same series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.models.compare import Comparison, Seen, compare, seen_in
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.model_tables import ComparisonRow
from dicomnode.records.tables import JobRow, ResultRow

BATCH = 20

log = structlog.get_logger()


@dataclass(frozen=True)
class Comparing:
    """Works off comparisons. One per node; needs no model and no GPU."""

    database: Database
    audit: Audit

    def compare_due(self) -> None:
        """Compare what has come since the last time; one that fails is noted and not tried again."""
        with self.database.snapshot() as session:
            due = session.scalars(
                select(ComparisonRow.id).where(ComparisonRow.compared_at.is_(None)).limit(BATCH)
            ).all()
        for comparison_id in due:
            self._settle(comparison_id, self._try(comparison_id))

    def _try(self, comparison_id: int) -> Comparison | str:
        """The comparison, or why there is none."""
        try:
            with self.database.snapshot() as session:
                row = session.get_one(ComparisonRow, comparison_id)
                paths = [_segmentations(session, job) for job in (row.live_job_id, row.candidate_job_id)]
            live, candidate = (_seen(found) for found in paths)
            return compare(live, candidate)
        except SQLAlchemyError:
            raise
        except FileNotFoundError:
            return "a segmentation is not kept any more"
        except PermanentError as error:
            return str(error)
        except Exception as error:
            log.exception("not_compared", comparison_id=comparison_id)
            return f"internal error {type(error).__name__}; the log has the details"

    def _settle(self, comparison_id: int, outcome: Comparison | str) -> None:
        with self.database.transaction() as session:
            row = session.get_one(ComparisonRow, comparison_id)
            row.compared_at = utc_now()
            if isinstance(outcome, str):
                row.error = outcome
                told: dict[str, object] = {"error": outcome}
            else:
                _fill(session, row, outcome)
                told = {
                    "dice": row.dice,
                    "found_by_both": row.found_by_both,
                    "only_live": row.only_live,
                    "only_candidate": row.only_candidate,
                    "live_volume_mm3": row.live_volume_mm3,
                    "candidate_volume_mm3": row.candidate_volume_mm3,
                }
            subject = Subject(row.study_instance_uid, row.series_instance_uid, None, row.candidate_job_id)
            self.audit.record(
                session,
                Event.MODELS_COMPARED,
                subject,
                live_job_id=row.live_job_id,
                live_digest=row.live_digest,
                candidate_digest=row.candidate_digest,
                **told,
            )


def _segmentations(session: Session, job_id: int) -> list[Path]:
    """Files of a job's segmentations; none when it saw nothing."""
    paths = session.scalars(select(ResultRow.path).where(ResultRow.job_id == job_id, ResultRow.kind == "seg"))
    return [Path(path) for path in paths]


def _seen(paths: list[Path]) -> Seen:
    parts = [dcmread(path) for path in paths]
    return seen_in(sorted(parts, key=lambda part: int(part.SeriesNumber)))


def _fill(session: Session, row: ComparisonRow, found: Comparison) -> None:
    row.live_voxels, row.candidate_voxels = found.live_voxels, found.candidate_voxels
    row.common_voxels, row.dice = found.common_voxels, found.dice
    row.found_by_both = len(found.matches)
    row.only_live, row.only_candidate = found.only_live, found.only_candidate
    row.lesions = found.lesions()
    row.live_volume_mm3 = _volume_mm3(session, row.live_job_id)
    row.candidate_volume_mm3 = _volume_mm3(session, row.candidate_job_id)


def _volume_mm3(session: Session, job_id: int) -> float | None:
    summary = session.get_one(JobRow, job_id).summary or {}
    volume: float | None = summary.get("total_volume_mm3")
    return volume
