"""The files of results: durable before the database speaks of them, removed when it never will."""

from __future__ import annotations

from sqlalchemy import select

from dicomnode.records.db import Database
from dicomnode.records.tables import JobRow, ResultRow
from dicomnode.spool import Spool
from dicomnode.work.jobs import Lease, NewResult
from dicomnode.work.pipeline import Findings


def store_results(spool: Spool, lease: Lease, job: JobRow, findings: Findings) -> tuple[NewResult, ...]:
    """Write every result into a file of its own. Raises OSError when the disk does not take it.

    A worker that lost its lease without knowing writes beside the files of its successor.
    """
    attempt = _attempt(lease.job_id, lease.fencing_token)
    stored = []
    for result in findings.results:
        sop_instance_uid = str(result.dataset.SOPInstanceUID)
        path = spool.result_path(job.study_instance_uid, sop_instance_uid, attempt)
        spool.write(path, result.content)
        stored.append(
            NewResult(
                kind=result.kind,
                sop_class_uid=str(result.dataset.SOPClassUID),
                sop_instance_uid=sop_instance_uid,
                series_instance_uid=str(result.dataset.SeriesInstanceUID),
                instance_number=int(result.dataset.InstanceNumber),
                sha256=result.sha256,
                path=path,
            )
        )
    return tuple(stored)


def remove_lost_attempts(spool: Spool, database: Database, job: JobRow, fencing_token: int) -> None:
    """Remove what attempts with tokens below `fencing_token` wrote and did not publish.

    None of them can publish any more, so nobody will ever speak of these files.
    Raises OSError or SQLAlchemyError; nothing that is published is touched.
    """
    written = [
        path
        for token in range(1, fencing_token)
        for path in spool.results_of(job.study_instance_uid, _attempt(job.id, token))
    ]
    if not written:
        return
    with database.snapshot() as session:
        published = set(session.scalars(select(ResultRow.path).where(ResultRow.job_id == job.id)))
    for path in written:
        if str(path) not in published:
            path.unlink(missing_ok=True)


def _attempt(job_id: int, fencing_token: int) -> str:
    return f"{job_id}-{fencing_token}"
