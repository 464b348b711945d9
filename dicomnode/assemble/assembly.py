"""Decides when a study is complete, and lets the peers' own counts speed that up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy import SelectBase, func, select, union
from sqlalchemy.orm import Session

from dicomnode.assemble.completeness import count_instances
from dicomnode.errors import TransientError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState, StudyState, moved
from dicomnode.records.tables import DeliveryRow, InstanceRow, ResultRow, StudyRow
from dicomnode.settings import AssemblySettings, PeerSettings, Settings

log = structlog.get_logger()


class CompletedBy(StrEnum):
    """The rule that closed a study."""

    EXPECTED_COUNT = "expected_count"
    QUIET_PERIOD = "quiet_period"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class Progress:
    """How far a study has come in."""

    first_received_at: datetime
    last_received_at: datetime
    received_count: int
    """Distinct instances that both we and the sending peer hold."""
    expected_count: int | None
    expected_asked_at: datetime | None


def completed_by(progress: Progress, rules: AssemblySettings, now: datetime) -> CompletedBy | None:
    """The rule that makes a study complete now, or None while something may still come.

    A count only holds when it was asked after the last arrival: while a modality is still storing
    to the peer, an older count would close the study too early.
    """
    settled = progress.last_received_at + timedelta(seconds=rules.settle_s)
    if (
        progress.expected_count is not None
        and progress.expected_asked_at is not None
        and progress.expected_asked_at >= settled
        and progress.received_count >= progress.expected_count
    ):
        return CompletedBy.EXPECTED_COUNT
    if now >= progress.last_received_at + timedelta(seconds=rules.quiet_period_s):
        return CompletedBy.QUIET_PERIOD
    if now >= progress.first_received_at + timedelta(seconds=rules.deadline_s):
        return CompletedBy.DEADLINE
    return None


def count_is_due(progress: Progress, rules: AssemblySettings, now: datetime) -> bool:
    """Whether the peer should be asked (again) for its count."""
    settled = progress.last_received_at + timedelta(seconds=rules.settle_s)
    if now < settled:
        return False
    asked = progress.expected_asked_at
    return asked is None or asked < settled or now >= asked + timedelta(seconds=rules.count_interval_s)


class Assembly:
    """Closes studies. One per node."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._audit = Audit("assembly")

    def close_complete_studies(self) -> None:
        """Move every study that is complete by now to that state."""
        with self._database.snapshot() as session:
            due = [
                study.study_instance_uid
                for study in _receiving(session)
                if completed_by(self._progress(session, study), self._settings.assembly, utc_now())
            ]
        for study_instance_uid in due:
            with self._database.transaction() as session:
                self._close(session, study_instance_uid)

    def ask_counts(self) -> None:
        """Ask the sending peers for the counts that are due."""
        for study_instance_uid, peer in self._counts_due():
            asked_at = utc_now()
            try:
                expected = count_instances(self._settings.node.ae_title, peer, study_instance_uid)
            except TransientError as error:
                log.warning("count_not_available", peer=peer.name, reason=str(error))
                expected = None
            with self._database.transaction() as session:
                study = session.get_one(StudyRow, study_instance_uid)
                study.expected_count, study.expected_asked_at = expected, asked_at

    def _close(self, session: Session, study_instance_uid: str) -> None:
        """Decide again within the transaction: an instance may have arrived since."""
        study = session.get_one(StudyRow, study_instance_uid)
        if study.state != StudyState.RECEIVING:
            return
        now = utc_now()
        progress = self._progress(session, study)
        rule = completed_by(progress, self._settings.assembly, now)
        if rule is None:
            return
        study.state = moved(StudyState(study.state), StudyState.COMPLETE).value
        study.completed_at, study.completed_by = now, rule.value
        study.received_count = progress.received_count
        self._audit.record(
            session,
            Event.STUDY_COMPLETED,
            Subject(study_instance_uid),
            rule=rule.value,
            generation=study.generation,
            received_count=progress.received_count,
            expected_count=progress.expected_count,
        )

    def _counts_due(self) -> list[tuple[str, PeerSettings]]:
        now = utc_now()
        with self._database.snapshot() as session:
            return [
                (study.study_instance_uid, peer)
                for study in _receiving(session)
                if (peer := self._counting_peer(study.calling_ae_title)) is not None
                and count_is_due(self._progress(session, study), self._settings.assembly, now)
            ]

    def _counting_peer(self, calling_ae_title: str) -> PeerSettings | None:
        for peer in self._settings.peer:
            if peer.count_instances and peer.ae_title.strip() == calling_ae_title:
                return peer
        return None

    def _progress(self, session: Session, study: StudyRow) -> Progress:
        return Progress(
            first_received_at=study.first_received_at,
            last_received_at=study.last_received_at,
            received_count=_held_by_both(session, study, self._counting_peer(study.calling_ae_title)),
            expected_count=study.expected_count,
            expected_asked_at=study.expected_asked_at,
        )


def _receiving(session: Session) -> list[StudyRow]:
    return list(session.scalars(select(StudyRow).where(StudyRow.state == StudyState.RECEIVING.value)))


def _held_by_both(session: Session, study: StudyRow, peer: PeerSettings | None) -> int:
    """What came in, plus our results that the peer has and therefore counts too."""
    received = select(InstanceRow.sop_instance_uid).where(
        InstanceRow.study_instance_uid == study.study_instance_uid
    )
    if peer is None:
        return _count(session, received.distinct())
    delivered = (
        select(DeliveryRow.sop_instance_uid)
        .join(ResultRow, ResultRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .where(
            ResultRow.study_instance_uid == study.study_instance_uid,
            DeliveryRow.destination == peer.name,
            DeliveryRow.state == DeliveryState.DELIVERED.value,
        )
    )
    return _count(session, union(received, delivered))


def _count(session: Session, rows: SelectBase) -> int:
    """Counted by the database: this is asked several times a second for every study coming in."""
    return session.scalar(select(func.count()).select_from(rows.subquery())) or 0
