"""The outbox: works off what is to be sent, tries again with growing delays, buries what is refused."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicomnode.deliver.answers import Fate, PeerUnavailable
from dicomnode.deliver.breaker import Breaker, retry_delay_s
from dicomnode.deliver.intact import damage_of, size_of
from dicomnode.deliver.sender import Response, longest_transfer_s, send
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState, moved
from dicomnode.records.tables import DeliveryRow, ResultRow
from dicomnode.records.wake import Topic, announce
from dicomnode.settings.node import DeliverySettings, PeerSettings, Settings

LEASE_MARGIN_S = 60.0

log = structlog.get_logger()


class Delivery:
    """Sends results. Each destination is pushed on its own, so a slow one holds up no other."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._audit = Audit("delivery")
        self._breaker = Breaker(settings.delivery, database, self._audit)
        self._cut_off: set[str] = set()
        """Destinations with a batch whose outcome the database did not take."""

    def push(self, peer: PeerSettings) -> None:
        """Send one batch to one peer, if anything is due and the peer is not known to be away."""
        if peer.name in self._cut_off:
            self.release_leases(peer.name)
            self._cut_off.discard(peer.name)
        with self._database.snapshot() as session:
            waiting = _due().where(DeliveryRow.destination == peer.name)
            if session.scalar(waiting.with_only_columns(DeliveryRow.id).limit(1)) is None:
                return
        allowance = self._breaker.allowance(peer.name)
        if allowance == 0:
            return
        try:
            self._send(peer, self._take(peer.name, allowance))
            if peer.storage_commitment:
                self._database.wake.signal(Topic.COMMITMENTS)  # once for all that went over together
        except SQLAlchemyError:
            self._cut_off.add(peer.name)
            raise

    def _send(self, peer: PeerSettings, batch: list[tuple[DeliveryRow, ResultRow]]) -> None:
        """Send a batch over one association; what cannot be tried stays as it was."""
        by_path = self._intact(batch)
        answered, broken_at, silence = False, None, ""
        try:
            for response in send(
                self._settings.node.ae_title, peer, list(by_path), self._settings.delivery.response_timeout_s
            ):
                delivery = by_path.pop(response.path)
                self._settle(delivery, response)
                if response.fate is Fate.NO_ANSWER:
                    broken_at, silence = delivery.id, response.status
                elif response.from_peer and not answered:
                    answered = True
                    self._breaker.answered(peer.name)
            if broken_at is not None:
                self._keep_in_order(broken_at)
                if not answered:
                    raise PeerUnavailable(f"peer {peer.name} answers no object: {silence}")
        except PeerUnavailable as failure:
            for path, delivery in by_path.items():
                self._settle(delivery, Response(path, Fate.NOT_SENT, str(failure)))
            self._breaker.failed(peer.name, failure)

    def _intact(self, batch: list[tuple[DeliveryRow, ResultRow]]) -> dict[Path, DeliveryRow]:
        """A batch by its files; what is damaged is given up here, since no attempt can mend it."""
        intact = {}
        for delivery, result in batch:
            path, damage = Path(result.path), damage_of(result)
            if damage is None:
                intact[path] = delivery
            else:
                log.error("result_damaged", sop_instance_uid=result.sop_instance_uid, path=result.path)
                self._settle(delivery, Response(path, Fate.REFUSED, damage))
        return intact

    def _keep_in_order(self, broken_at: int) -> None:
        """What follows an object of the same job waits as long as that: the SEG stays before its reports."""
        with self._database.transaction() as session:
            first = session.get_one(DeliveryRow, broken_at)
            session.execute(
                update(DeliveryRow)
                .where(
                    DeliveryRow.job_id == first.job_id,
                    DeliveryRow.destination == first.destination,
                    DeliveryRow.state == DeliveryState.WAITING.value,
                    DeliveryRow.id > first.id,
                    DeliveryRow.not_before < first.not_before,
                )
                .values(not_before=first.not_before)
            )

    def _take(self, destination: str, limit: int) -> list[tuple[DeliveryRow, ResultRow]]:
        """Lease a batch, in the order in which the objects were made: the SEG before its reports."""
        timeout_s = self._settings.delivery.response_timeout_s
        with self._database.transaction() as session:
            rows = session.scalars(
                _due()
                .where(DeliveryRow.destination == destination)
                .order_by(DeliveryRow.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            batch = [(row, session.get_one(ResultRow, row.sop_instance_uid)) for row in rows]
            longest_s = sum(longest_transfer_s(size_of(result), timeout_s) for _, result in batch)
            expires = utc_now() + timedelta(seconds=LEASE_MARGIN_S + timeout_s + longest_s)
            for row in rows:
                row.state = moved(DeliveryState(row.state), DeliveryState.SENDING).value
                row.attempt += 1
                row.lease_expires_at = expires
            return batch

    def _settle(self, delivery: DeliveryRow, response: Response) -> None:
        with self._database.transaction() as session:
            row = session.get_one(DeliveryRow, delivery.id)
            if row.state != DeliveryState.SENDING or row.attempt != delivery.attempt:
                return
            if response.fate is Fate.NOT_SENT:
                _hand_back(row)
            else:
                commits = self._settings.peers[row.destination].storage_commitment
                settle(session, self._audit, row, response, self._settings.delivery, commits=commits)

    def recover_lost(self) -> None:
        """Make deliveries due again whose sender died on the way; sending twice is harmless."""
        lost = (DeliveryRow.state == DeliveryState.SENDING.value, DeliveryRow.lease_expires_at < utc_now())
        with self._database.snapshot() as session:
            if session.scalar(select(DeliveryRow.id).where(*lost).limit(1)) is None:
                return
        with self._database.transaction() as session:
            for row in session.scalars(select(DeliveryRow).where(*lost)):
                response = Response(Path(), Fate.TRY_LATER, "the sender was lost")
                settle(session, self._audit, row, response, self._settings.delivery)

    def release_leases(self, destination: str | None = None) -> None:
        """Free what is marked as being sent, by whom nobody knows: at start-up, or when a batch broke off."""
        sending = select(DeliveryRow).where(DeliveryRow.state == DeliveryState.SENDING.value)
        if destination is not None:
            sending = sending.where(DeliveryRow.destination == destination)
        with self._database.transaction() as session:
            for row in session.scalars(sending):
                row.state = moved(DeliveryState.SENDING, DeliveryState.WAITING).value
                row.lease_expires_at = None

    def bury_unknown(self) -> None:
        """Deliveries to peers that are no longer configured go to the dead letters."""
        open_states = (DeliveryState.WAITING.value, DeliveryState.STORED.value)
        unknown = select(DeliveryRow).where(
            DeliveryRow.state.in_(open_states), DeliveryRow.destination.not_in(list(self._settings.peers))
        )
        with self._database.snapshot() as session:
            if session.scalar(unknown.with_only_columns(DeliveryRow.id).limit(1)) is None:
                return
        with self._database.transaction() as session:
            for row in session.scalars(unknown):
                if row.state == DeliveryState.WAITING:
                    row.state = moved(DeliveryState.WAITING, DeliveryState.SENDING).value
                response = Response(Path(), Fate.REFUSED, "no peer of this name is configured any more")
                settle(session, self._audit, row, response, self._settings.delivery)


def settle(
    session: Session,
    audit: Audit,
    row: DeliveryRow,
    response: Response,
    rules: DeliverySettings,
    *,
    commits: bool = False,
) -> None:
    """Write down how one attempt ended, and what follows: when the destination `commits`, a request."""
    result = session.get_one(ResultRow, row.sop_instance_uid)
    subject = Subject.of_result(result)
    told: dict[str, Any] = {
        "destination": row.destination,
        "kind": result.kind,
        "status": response.status,
        "attempt": row.attempt,
    }
    row.last_status, row.lease_expires_at = response.status, None
    if response.fate is Fate.ACCEPTED and commits:
        row.state = moved(DeliveryState(row.state), DeliveryState.STORED).value
        row.not_before, row.commitment_attempt = utc_now(), 0
        audit.record(session, Event.RESULT_STORED, subject, **told)
    elif response.fate is Fate.ACCEPTED:
        row.state = moved(DeliveryState(row.state), DeliveryState.DELIVERED).value
        row.delivered_at = utc_now()
        audit.record(session, Event.RESULT_DELIVERED, subject, **told)
    elif response.fate is Fate.REFUSED or row.attempt >= rules.maximum_attempts:
        row.state = moved(DeliveryState(row.state), DeliveryState.DEAD).value
        audit.record(session, Event.DELIVERY_DEAD, subject, **told)
    else:
        # The objects of a job that failed together wait equally long: the SEG stays before its reports.
        delay_s = retry_delay_s(row.attempt, rules, random.Random(f"{row.job_id}/{row.attempt}"))
        row.state = moved(DeliveryState(row.state), DeliveryState.WAITING).value
        row.not_before = utc_now() + timedelta(seconds=delay_s)
        audit.record(session, Event.DELIVERY_RETRIED, subject, delay_s=round(delay_s, 1), **told)


def replay_delivery(session: Session, audit: Audit, row: DeliveryRow) -> None:
    """Send a dead delivery again, with its attempts counted from the start."""
    row.state = moved(DeliveryState(row.state), DeliveryState.WAITING).value
    row.attempt, row.not_before = 0, utc_now()
    announce(session, Topic.DELIVERIES)
    result = session.get_one(ResultRow, row.sop_instance_uid)
    subject = Subject.of_result(result)
    audit.record(session, Event.DELIVERY_REPLAYED, subject, destination=row.destination)


def _hand_back(row: DeliveryRow) -> None:
    """An object whose turn did not come: it waits as before, and no attempt is counted."""
    row.state = moved(DeliveryState(row.state), DeliveryState.WAITING).value
    row.attempt -= 1
    row.lease_expires_at = None


def _due() -> Any:
    return select(DeliveryRow).where(
        DeliveryRow.state == DeliveryState.WAITING.value, DeliveryRow.not_before <= utc_now()
    )
