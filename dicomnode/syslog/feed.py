"""Feeds one syslog receiver from the trail. The trail is the buffer, so nothing waits for a receiver."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.errors import TransientError
from dicomnode.records.db import Database, utc_now
from dicomnode.records.events import Outcome
from dicomnode.records.tables import AuditRow, InstanceRow, ResultRow, StudyRow
from dicomnode.records.watch_tables import SyslogCursorRow
from dicomnode.settings.audit import SyslogSettings
from dicomnode.settings.node import Settings
from dicomnode.syslog.messages import Known, Source, messages
from dicomnode.syslog.senders import NOTICE, WARNING, Sender, sender_to, syslog_message

BATCH = 200
BATCHES_PER_TICK = 20
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

log = structlog.get_logger()


class Feed:
    """Sends what a receiver has not had yet, in order; remembers in the database how far it came."""

    def __init__(self, settings: Settings, target: SyslogSettings, database: Database) -> None:
        self._target = target
        self._database = database
        self._source = Source(
            ae_title=settings.node.ae_title,
            host=socket.gethostname(),
            peers={peer.name: (peer.ae_title, peer.host) for peer in settings.peer},
            patient_id=target.patient_id,
        )
        self._sender: Sender = sender_to(target)
        self._pause_s = 0.0
        self._not_before = 0.0

    def tick(self) -> None:
        """Send what is there; after a failure, not before a pause that grows."""
        if time.monotonic() < self._not_before:
            return
        try:
            for _ in range(BATCHES_PER_TICK):
                if not self._send_batch():
                    break
        except TransientError as error:
            if not self._pause_s:
                log.warning("syslog_away", target=self._target.name, reason=str(error))
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            self._not_before = time.monotonic() + self._pause_s
            return
        if self._pause_s:
            log.info("syslog_back", target=self._target.name)
            self._pause_s = 0.0

    def close(self) -> None:
        """Hang up."""
        self._sender.close()

    def _send_batch(self) -> bool:
        """Send the next events; False when there were none. Raises TransientError."""
        with self._database.snapshot() as session:
            cursor = session.get(SyslogCursorRow, self._target.name)
            after = cursor.last_event_id if cursor else 0
            rows = session.scalars(
                select(AuditRow).where(AuditRow.id > after).order_by(AuditRow.id).limit(BATCH)
            ).all()
            known = _look_up(session, rows)
        if not rows:
            return False
        batch = [
            syslog_message(
                message.row.at,
                self._source.host,
                NOTICE if message.outcome is Outcome.SUCCESS else WARNING,
                message.xml,
            )
            for message in messages(rows, self._source, known)
        ]
        self._sender.send(batch)
        with self._database.transaction() as session:
            session.merge(
                SyslogCursorRow(target=self._target.name, last_event_id=rows[-1].id, sent_at=utc_now())
            )
        return True


def _look_up(session: Session, rows: Sequence[AuditRow]) -> Known:
    """The studies and SOP classes that the events are about."""
    studies = {row.study_instance_uid for row in rows if row.study_instance_uid}
    instances = {row.sop_instance_uid for row in rows if row.sop_instance_uid}
    found = session.scalars(select(StudyRow).where(StudyRow.study_instance_uid.in_(studies)))
    classes: dict[str, str] = {}
    for table in (InstanceRow, ResultRow):
        pairs = select(table.sop_instance_uid, table.sop_class_uid).where(
            table.sop_instance_uid.in_(instances)
        )
        classes.update((uid, sop_class) for uid, sop_class in session.execute(pairs))
    return Known({study.study_instance_uid: study for study in found}, classes)
