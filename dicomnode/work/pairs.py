"""Notes that a candidate and the live model have both looked at the same series."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.records.model_tables import ComparisonRow
from dicomnode.records.states import JobState
from dicomnode.records.tables import JobRow


def pair(session: Session, job: JobRow) -> None:
    """Make comparisons due between a job that succeeded and those of its counterparts that did."""
    counterparts = session.scalars(
        select(JobRow).where(
            JobRow.series_instance_uid == job.series_instance_uid,
            JobRow.input_digest == job.input_digest,
            JobRow.model == job.model,
            JobRow.shadow.is_(not job.shadow),
            JobRow.state == JobState.SUCCEEDED.value,
        )
    )
    for other in counterparts:
        live, candidate = (other, job) if job.shadow else (job, other)
        session.add(
            ComparisonRow(
                study_instance_uid=job.study_instance_uid,
                series_instance_uid=job.series_instance_uid,
                live_job_id=live.id,
                candidate_job_id=candidate.id,
                live_digest=live.model_digest,
                candidate_digest=candidate.model_digest,
            )
        )
