"""Asks destinations to commit to what they were sent: done means committed (PS3.4 annex J, as SCU).

Every transaction is in the database before it is asked for, so that its report finds it, whenever and on
whatever association it comes, also after a restart.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from dicomnode.deliver.answers import Fate, PeerUnavailable
from dicomnode.deliver.breaker import retry_delay_s
from dicomnode.deliver.commitment_request import SUCCESS, associate_to_ask, request_commitment
from dicomnode.deliver.delivery import settle
from dicomnode.deliver.references import (
    Reference,
    Report,
    read_report,
    read_transaction_uid,
    reason_in_words,
)
from dicomnode.deliver.sender import Response, release
from dicomnode.errors import PermanentError, TransientError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.commitment_tables import CommitmentRequestRow
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow
from dicomnode.settings.node import PeerSettings, Settings

BATCH = 200
AWAY_S = 60.0
"""After so long a peer that could not be reached is tried again."""
REPORT_WAIT_S = 1.0
"""How long an association stays open at most for peers that report on the same one."""
LOOK_S = 0.1
"""How often it is looked whether the peer has reported on another one meanwhile."""
INVALID_ARGUMENT = 0x0115
HOPELESS = (0x0119, 0x0122)
"""Failure reasons that sending again cannot mend."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _Request:
    """One N-ACTION about the results of one job."""

    transaction_uid: str
    references: tuple[Reference, ...]
    subject: Subject
    attempt: int


class Commitment:
    """Moves deliveries from stored to delivered. Safe to use from many threads and processes."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._audit = Audit("delivery")

    def ask(self, peer: PeerSettings) -> None:
        """Ask `peer` about everything of its that is due."""
        with self._database.snapshot() as session:
            if session.scalar(_due(peer).with_only_columns(DeliveryRow.id).limit(1)) is None:
                return
        self._settle_without_asking(peer)
        reported = threading.Semaphore(0)

        def on_report(event: Any) -> tuple[int, None]:
            status = self.take(peer, event)
            reported.release()
            return status, None

        try:
            association = associate_to_ask(self._settings, peer, [(evt.EVT_N_EVENT_REPORT, on_report)])
        except PeerUnavailable as error:
            log.warning("commitment_not_requested", destination=peer.name, reason=str(error))
            self._wait(peer)
            return
        try:
            requests = self._prepare(peer)
            self._send(association, peer, requests)
            deadline = time.monotonic() + REPORT_WAIT_S
            while self._unanswered(requests) and time.monotonic() < deadline:
                reported.acquire(timeout=LOOK_S)
        finally:
            release(association)

    def _unanswered(self, requests: list[_Request]) -> bool:
        """Whether a report on one of them is still to come, on whatever association."""
        asked = [request.transaction_uid for request in requests]
        open_ones = select(CommitmentRequestRow.transaction_uid).where(
            CommitmentRequestRow.transaction_uid.in_(asked), CommitmentRequestRow.answered_at.is_(None)
        )
        with self._database.snapshot() as session:
            return session.scalar(open_ones.limit(1)) is not None

    def take(self, peer: PeerSettings, event: Any) -> int:
        """Apply an N-EVENT-REPORT that came from `peer`; returns the status to answer.

        What it says of instances that we no longer wait for changes nothing.
        """
        try:
            information = event.event_information
            transaction_uid, report = read_transaction_uid(information), read_report(information)
        except Exception as error:  # pydicom raises anything on malformed bytes
            reason = str(error) if isinstance(error, PermanentError) else type(error).__name__
            log.warning("commitment_report_not_understood", peer=peer.name, reason=reason)
            return INVALID_ARGUMENT
        with self._database.transaction() as session:
            request = session.get(CommitmentRequestRow, transaction_uid)
            if request is None or not self._is_of(peer, request.destination):
                log.warning("commitment_report_unasked", peer=peer.name, transaction_uid=transaction_uid)
                return INVALID_ARGUMENT
            request.answered_at = utc_now()
            self._apply(session, request, report)
        return SUCCESS

    def _is_of(self, peer: PeerSettings, destination: str) -> bool:
        """Whether the destination is the application entity that reports, at whatever address."""
        asked = self._settings.peers.get(destination)
        return asked is not None and asked.ae_title.strip() == peer.ae_title.strip()

    def _settle_without_asking(self, peer: PeerSettings) -> None:
        """What was asked about too often is given up; what nobody wants to ask about any more is done."""
        most = self._settings.delivery.commitment_attempts
        with self._database.transaction() as session:
            for row in session.scalars(_due(peer).with_for_update(skip_locked=True)):
                if not peer.storage_commitment:
                    said = Response(Path(), Fate.ACCEPTED, "stored; commitment is not asked for any more")
                elif row.commitment_attempt >= most:
                    said = Response(Path(), Fate.REFUSED, f"not committed after {most} requests")
                else:
                    continue
                settle(session, self._audit, row, said, self._settings.delivery)

    def _wait(self, peer: PeerSettings) -> None:
        """The peer is away: that is no attempt, and nothing happened that the trail should tell."""
        with self._database.transaction() as session:
            for row in session.scalars(_due(peer)):
                row.not_before = utc_now() + timedelta(seconds=AWAY_S)

    def _prepare(self, peer: PeerSettings) -> list[_Request]:
        """Write down what is going to be asked, one request for each job."""
        with self._database.transaction() as session:
            due = session.scalars(_due(peer).limit(BATCH).with_for_update(skip_locked=True)).all()
            return [
                self._write_down(session, peer, job_id, list(rows))
                for job_id, rows in groupby(due, lambda row: row.job_id)
            ]

    def _send(self, association: Association, peer: PeerSettings, requests: list[_Request]) -> None:
        """Send the requests; from the first that is not taken on, all are asked for later."""
        timeout_s = self._settings.delivery.response_timeout_s
        for number, request in enumerate(requests):
            try:
                request_commitment(association, peer, request.transaction_uid, request.references, timeout_s)
            except TransientError as error:
                log.warning("commitment_not_requested", destination=peer.name, reason=str(error))
                for later in requests[number:]:
                    self._postpone(peer, later, str(error))
                return

    def _write_down(
        self, session: Session, peer: PeerSettings, job_id: int, rows: list[DeliveryRow]
    ) -> _Request:
        now = utc_now()
        transaction_uid = str(generate_uid(prefix=None))
        session.add(
            CommitmentRequestRow(
                transaction_uid=transaction_uid, destination=peer.name, job_id=job_id, asked_at=now
            )
        )
        for row in rows:
            row.transaction_uid = transaction_uid
            row.commitment_attempt += 1
            row.not_before = now + timedelta(seconds=self._settings.delivery.commitment_timeout_s)
        results = [session.get_one(ResultRow, row.sop_instance_uid) for row in rows]
        subject = Subject.of_job(session.get_one(JobRow, job_id))
        attempt = max(row.commitment_attempt for row in rows)
        self._audit.record(
            session,
            Event.COMMITMENT_REQUESTED,
            subject,
            destination=peer.name,
            transaction_uid=transaction_uid,
            instance_count=len(rows),
            attempt=attempt,
        )
        references = tuple(Reference(result.sop_class_uid, result.sop_instance_uid) for result in results)
        return _Request(transaction_uid, references, subject, attempt)

    def _postpone(self, peer: PeerSettings, request: _Request, reason: str) -> None:
        delay_s = retry_delay_s(request.attempt, self._settings.delivery)
        with self._database.transaction() as session:
            waiting = select(DeliveryRow).where(
                DeliveryRow.transaction_uid == request.transaction_uid,
                DeliveryRow.state == DeliveryState.STORED.value,
            )
            for row in session.scalars(waiting):
                row.not_before = utc_now() + timedelta(seconds=delay_s)
            self._audit.record(
                session,
                Event.COMMITMENT_POSTPONED,
                request.subject,
                destination=peer.name,
                transaction_uid=request.transaction_uid,
                reason=reason,
                delay_s=round(delay_s, 1),
            )

    def _apply(self, session: Session, request: CommitmentRequestRow, report: Report) -> None:
        committed = {reference.sop_instance_uid for reference in report.committed}
        failed = {reference.sop_instance_uid: reason for reference, reason in report.failed}
        waiting = select(DeliveryRow).where(
            DeliveryRow.job_id == request.job_id,
            DeliveryRow.destination == request.destination,
            DeliveryRow.state == DeliveryState.STORED.value,
        )
        for row in session.scalars(waiting.with_for_update()):
            reason = failed.get(row.sop_instance_uid)
            if row.sop_instance_uid in committed:
                said = Response(Path(), Fate.ACCEPTED, "committed")
            elif reason is not None and row.transaction_uid == request.transaction_uid:
                fate = Fate.REFUSED if reason in HOPELESS else Fate.TRY_LATER
                said = Response(Path(), fate, f"not committed: {reason_in_words(reason)}")
            else:
                continue
            settle(session, self._audit, row, said, self._settings.delivery)


def _due(peer: PeerSettings) -> Any:
    """What is to be asked about; the objects of a job together, once none of them is on its way any more."""
    other = aliased(DeliveryRow)
    on_their_way = select(other.id).where(
        other.job_id == DeliveryRow.job_id,
        other.destination == peer.name,
        other.state == DeliveryState.SENDING.value,
    )
    return (
        select(DeliveryRow)
        .where(
            DeliveryRow.state == DeliveryState.STORED.value,
            DeliveryRow.destination == peer.name,
            DeliveryRow.not_before <= utc_now(),
            ~on_their_way.exists(),
        )
        .order_by(DeliveryRow.job_id, DeliveryRow.id)
    )
