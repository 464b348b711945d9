"""Reports to senders which of the instances that they asked about we commit to (PS3.4 annex J, as SCP).

What is owed is in the database until the sender has taken it, on a new association to its host and port.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select

from dicomnode.deliver.breaker import retry_delay_s
from dicomnode.deliver.holdings import why_not_held
from dicomnode.deliver.outgoing import UNCOMPRESSED
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.references import Reference, Report, event_information, reason_in_words
from dicomnode.deliver.sender import associate, release
from dicomnode.deliver.watchdog import watchdog_of
from dicomnode.errors import TransientError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.commitment_tables import CommitmentReportRow
from dicomnode.records.db import Database, utc_now
from dicomnode.settings.node import PeerSettings, Settings

BATCH = 20

log = structlog.get_logger()


class ReportState(StrEnum):
    """Where a report that we owe stands."""

    WAITING = "waiting"
    REPORTED = "reported"
    DEAD = "dead"
    """Tried too often; the sender may ask again."""


class CommitmentReports:
    """Sends the reports that are due, each destination on its own."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._audit = Audit("delivery")

    def send_due(self, peer: PeerSettings) -> None:
        """Send the reports that `peer` waits for."""
        with self._database.snapshot() as session:
            due = list(session.scalars(_due(peer)))
            owed = [(row, _judge(session, row)) for row in due]
        if not owed:
            return
        try:
            association = self._associate(peer)
        except TransientError as error:
            for row, report in owed:
                self._settle(peer, row, report, str(error))
            return
        try:
            for row, report in owed:
                self._settle(peer, row, report, self._send(association, row.transaction_uid, report))
        finally:
            release(association)

    def _associate(self, peer: PeerSettings) -> Association:
        model = str(StorageCommitmentPushModel)
        return associate(
            self._settings.node.ae_title,
            peer,
            [(model, UNCOMPRESSED)],
            self._settings.delivery.response_timeout_s,
            roles=[build_role(model, scp_role=True)],  # we call, and stay the SCP
        )

    def _send(self, association: Association, transaction_uid: str, report: Report) -> str | None:
        """Send one N-EVENT-REPORT; what went wrong, or None."""
        longest_s = 2 * self._settings.delivery.response_timeout_s
        try:
            with parked_reactor(association), watchdog_of(association).limit(longest_s):
                answer, _ = association.send_n_event_report(
                    event_information(transaction_uid, report),
                    report.event_type,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                )
        except ValueError:
            return "the peer does not let us be the SCP of storage commitment"
        except RuntimeError as error:
            return f"association ended: {error}"
        if not answer:
            return "no response: timed out or aborted"
        return None if answer.Status == 0x0000 else f"answered {answer.Status:04X}"

    def _settle(
        self, peer: PeerSettings, row: CommitmentReportRow, report: Report, problem: str | None
    ) -> None:
        """Write down how one attempt ended: without a `problem` the sender has its report."""
        rules = self._settings.delivery
        with self._database.transaction() as session:
            now = session.get_one(CommitmentReportRow, row.id)
            now.attempt += 1
            now.last_status = problem
            told: dict[str, Any] = {
                "peer": peer.name,
                "transaction_uid": row.transaction_uid,
                "committed": len(report.committed),
                "failed": dict(Counter(reason_in_words(reason) for _, reason in report.failed)),
                "attempt": now.attempt,
            }
            if problem is None:
                now.state, now.reported_at = ReportState.REPORTED.value, utc_now()
                self._audit.record(session, Event.COMMITMENT_REPORTED, Subject(), **told)
                return
            log.warning("commitment_not_reported", peer=peer.name, reason=problem)
            if now.attempt >= rules.maximum_attempts:
                now.state = ReportState.DEAD.value
                self._audit.record(session, Event.COMMITMENT_REPORT_DEAD, Subject(), reason=problem, **told)
                return
            delay_s = retry_delay_s(now.attempt, rules)
            now.not_before = utc_now() + timedelta(seconds=delay_s)
            self._audit.record(
                session,
                Event.COMMITMENT_REPORT_RETRIED,
                Subject(),
                reason=problem,
                delay_s=round(delay_s, 1),
                **told,
            )


def _due(peer: PeerSettings) -> Any:
    waiting = select(CommitmentReportRow).where(
        CommitmentReportRow.state == ReportState.WAITING.value,
        CommitmentReportRow.peer == peer.name,
        CommitmentReportRow.not_before <= utc_now(),
    )
    return waiting.order_by(CommitmentReportRow.id).limit(BATCH)


def _judge(session: Any, row: CommitmentReportRow) -> Report:
    committed, failed = [], []
    for sop_class_uid, sop_instance_uid in row.referenced["instances"]:
        reference = Reference(sop_class_uid, sop_instance_uid)
        reason = why_not_held(session, reference)
        if reason is None:
            committed.append(reference)
        else:
            failed.append((reference, reason))
    return Report(tuple(committed), tuple(failed))
