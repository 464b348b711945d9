"""Follows each accepted association to its end, and records how long it was and what was answered on it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.pdu_primitives import A_RELEASE
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicomnode.errors import TransientError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import StudyState
from dicomnode.records.tables import StudyRow
from dicomnode.records.wake import Topic, announce

RELEASED = "released"
SUCCESS = "0000"

log = structlog.get_logger()


@dataclass
class _Visit:
    calling_ae_title: str
    called_ae_title: str
    address: str
    accepted_at: datetime = field(default_factory=utc_now)
    started: float = field(default_factory=time.monotonic)
    echoes: int = 0
    stores: Counter[str] = field(default_factory=Counter)
    """Number of C-STOREs by the status that they were answered with (hexadecimal)."""
    is_released: bool = False
    """Asked for, and answered: the peer may close the connection before pynetdicom tells of the release."""


class Visits:
    """Listens to what pynetdicom tells of associations; one event of the trail for each, at its end."""

    def __init__(self, database: Database, audit: Audit, flush: Callable[[], None]) -> None:
        """`flush` waits until what was acknowledged is recorded: the end is told of after that."""
        self._flush = flush
        self._database = database
        self._audit = audit
        self._open: dict[Any, _Visit] = {}

    @property
    def handlers(self) -> list[tuple[Any, Callable[[Any], None]]]:
        """To be bound to the listening port."""
        return [
            (evt.EVT_ACCEPTED, self._begin),
            (evt.EVT_DIMSE_SENT, self._count),
            (evt.EVT_ACSE_SENT, self._note_answer),
            (evt.EVT_RELEASED, partial(self._end, RELEASED)),
            (evt.EVT_ABORTED, partial(self._end, "cut off")),
            (evt.EVT_CONN_CLOSE, partial(self._end, "cut off")),
        ]

    def _begin(self, event: Any) -> None:
        requested = event.assoc.requestor.primitive
        self._open[event.assoc] = _Visit(
            requested.calling_ae_title.strip(),
            requested.called_ae_title.strip(),
            event.assoc.requestor.address,
        )

    def count_echo(self, association: Any) -> None:
        """Count a C-ECHO that was answered."""
        if (visit := self._open.get(association)) is not None:
            visit.echoes += 1

    def count_store(self, association: Any, status: int) -> None:
        """Count a C-STORE by its status."""
        if (visit := self._open.get(association)) is not None:
            visit.stores[f"{status:04X}"] += 1

    def _count(self, event: Any) -> None:
        kind = type(event.message).__name__
        if kind == "C_ECHO_RSP":
            self.count_echo(event.assoc)
        elif kind == "C_STORE_RSP":
            self.count_store(event.assoc, event.message.command_set.Status)

    def _note_answer(self, event: Any) -> None:
        if isinstance(event.primitive, A_RELEASE) and (visit := self._open.get(event.assoc)) is not None:
            visit.is_released = True

    def _end(self, how: str, event: Any) -> None:
        """Whatever comes first: a release, or an abort or a closed connection, which look alike here."""
        visit = self._open.pop(event.assoc, None)
        if visit is None:
            return
        how = RELEASED if visit.is_released else how
        try:
            self._flush()
            with self._database.transaction(beside_others=True) as session:
                self._audit.record(
                    session,
                    Event.ASSOCIATION_ENDED,
                    Subject(),
                    calling_ae_title=visit.calling_ae_title,
                    called_ae_title=visit.called_ae_title,
                    address=visit.address,
                    accepted_at=visit.accepted_at.isoformat(),
                    duration_s=round(time.monotonic() - visit.started, 3),
                    ended=how,
                    echoes=visit.echoes,
                    stores=dict(visit.stores),
                )
                if how == RELEASED and visit.stores[SUCCESS] > 1:
                    _note_release(session, visit)
        except (SQLAlchemyError, OSError, TransientError) as error:
            log.error("association_not_recorded", error=type(error).__name__)


def _note_release(session: Session, visit: _Visit) -> None:
    """The studies of this sender that grew during its visit: nothing more of them is on its way here.

    An association for each image, as some senders have, says nothing of the kind.
    """
    session.execute(
        update(StudyRow)
        .where(
            StudyRow.calling_ae_title == visit.calling_ae_title,
            StudyRow.last_received_at >= visit.accepted_at,
            StudyRow.state == StudyState.RECEIVING.value,
        )
        .values(released_at=utc_now())
    )
    announce(session, Topic.RELEASES)
