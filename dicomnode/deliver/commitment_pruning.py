"""Removes requests for storage commitment, ours and those of senders, when they are finished and old."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, exists, select

from dicomnode.deliver.commitment_reports import ReportState
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.commitment_tables import CommitmentReportRow, CommitmentRequestRow
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState
from dicomnode.records.tables import DeliveryRow


def prune_commitments(database: Database, audit: Audit, days: float) -> None:
    """Remove what is older than so many days. What somebody still waits for stays.

    A destination that reports on a request that is not here any more is answered 0115, as on any unasked one.
    """
    before = utc_now() - timedelta(days=days)
    waited_for = exists().where(
        DeliveryRow.transaction_uid == CommitmentRequestRow.transaction_uid,
        DeliveryRow.state == DeliveryState.STORED.value,
    )
    requests = (CommitmentRequestRow.asked_at < before, ~waited_for)
    reports = (
        CommitmentReportRow.asked_at < before,
        CommitmentReportRow.state != ReportState.WAITING.value,
    )
    with database.snapshot() as session:
        old = (
            session.scalar(select(CommitmentRequestRow.transaction_uid).where(*requests).limit(1)),
            session.scalar(select(CommitmentReportRow.id).where(*reports).limit(1)),
        )
    if old == (None, None):
        return
    with database.transaction() as session:
        gone: list[Any] = [
            session.execute(delete(CommitmentRequestRow).where(*requests)),
            session.execute(delete(CommitmentReportRow).where(*reports)),
        ]
        audit.record(
            session,
            Event.COMMITMENTS_PRUNED,
            Subject(),
            before=before.isoformat(),
            requests_to_destinations=gone[0].rowcount,
            requests_of_senders=gone[1].rowcount,
        )
