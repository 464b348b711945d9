"""Answers storage commitment: requests of senders, and reports about what we asked for (PS3.4 annex J)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from pynetdicom.sop_class import StorageCommitmentPushModelInstance
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicomnode.deliver.commitment import INVALID_ARGUMENT, Commitment
from dicomnode.deliver.commitment_reports import ReportState
from dicomnode.deliver.commitment_request import REQUEST_COMMITMENT, SUCCESS
from dicomnode.deliver.references import Reference, read_references, read_transaction_uid
from dicomnode.errors import PermanentError, TransientError
from dicomnode.receive.connections import Connections
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.commitment_tables import CommitmentReportRow
from dicomnode.records.db import Database, utc_now
from dicomnode.settings.node import PeerSettings

# N-ACTION statuses (PS3.7 annex C)
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_ACTION = 0x0123
NOT_AUTHORISED = 0x0124
DUPLICATE_INVOCATION = 0x0210

log = structlog.get_logger()

Answer = tuple[int, None]
"""A status, without a data set."""


class CommitmentDesk:
    """Handles what comes in for the Storage Commitment Push Model."""

    def __init__(
        self,
        commitment: Commitment,
        connections: Connections,
        database: Database,
        audit: Audit,
        flush: Callable[[], None],
    ) -> None:
        """`flush` waits until what was acknowledged is recorded, and raises TransientError after too long."""
        self._flush = flush
        self._commitment = commitment
        self._connections = connections
        self._database = database
        self._audit = audit

    def on_report(self, event: Any) -> Answer:
        """Handles EVT_N_EVENT_REPORT: a destination says what it committed to."""
        return self._commitment.take(self._peer_of(event), event), None

    def on_action(self, event: Any) -> Answer:
        """Handles EVT_N_ACTION: a sender asks us to commit. Success when we owe it a report."""
        peer = self._peer_of(event)
        if not peer.may_send:
            return NOT_AUTHORISED, None
        if event.request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
            return NO_SUCH_INSTANCE, None
        if event.action_type != REQUEST_COMMITMENT:
            return NO_SUCH_ACTION, None
        try:
            information = event.action_information
            transaction_uid, references = read_transaction_uid(information), read_references(information)
        except Exception as error:  # pydicom raises anything on malformed bytes
            reason = str(error) if isinstance(error, PermanentError) else type(error).__name__
            log.warning("commitment_request_not_understood", peer=peer.name, reason=reason)
            return INVALID_ARGUMENT, None
        try:
            self._flush()
            with self._database.transaction() as session:
                return self._owe(session, peer, transaction_uid, references), None
        except (SQLAlchemyError, TransientError) as error:
            log.error("commitment_request_not_recorded", error=type(error).__name__)
            return PROCESSING_FAILURE, None

    def _owe(
        self, session: Session, peer: PeerSettings, transaction_uid: str, references: tuple[Reference, ...]
    ) -> int:
        """Write the request down; the same one again gets its report again."""
        now = utc_now()
        referenced = {"instances": [[one.sop_class_uid, one.sop_instance_uid] for one in references]}
        row = session.scalar(
            select(CommitmentReportRow).where(
                CommitmentReportRow.peer == peer.name, CommitmentReportRow.transaction_uid == transaction_uid
            )
        )
        if row is not None and row.referenced != referenced:
            return DUPLICATE_INVOCATION
        if row is None:
            row = CommitmentReportRow(
                peer=peer.name, transaction_uid=transaction_uid, referenced=referenced, asked_at=now
            )
            session.add(row)
        row.state, row.attempt, row.not_before = ReportState.WAITING.value, 0, now
        self._audit.record(
            session,
            Event.COMMITMENT_ASKED,
            Subject(),
            peer=peer.name,
            transaction_uid=transaction_uid,
            instance_count=len(references),
        )
        return SUCCESS

    def _peer_of(self, event: Any) -> PeerSettings:
        peer = self._connections.of(event.assoc).peer
        if peer is None:  # handlers run on admitted associations only
            raise RuntimeError("a request came on an association that was not admitted")
        return peer
