"""Writes down who was turned away, without letting a hostile host fill the audit trail.

The first rejection of its kind is a row at once. Further ones from the same address for the same reason
are counted, and told in one row with their number when their minute is over.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.receive.arrival import Origin
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database

WINDOW_S = 60.0
MANY = 1000
"""So many kinds are kept apart at one time; what goes beyond is counted together."""
ELSEWHERE = Origin("", "various addresses", "")

log = structlog.get_logger()


@dataclass
class _Window:
    """What is counted since its first row."""

    event: Event
    origin: Origin
    reason: str
    until: float
    further: int = 0


class TurnedAway:
    """One per listener; safe to call from many threads."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit
        self._windows: dict[tuple[Event, str, str], _Window] = {}
        self._lock = threading.Lock()

    def tell(self, event: Event, origin: Origin, reason: str) -> None:
        """Record or count one."""
        with self._lock:
            if len(self._windows) >= MANY and (event, origin.address, reason) not in self._windows:
                origin = ELSEWHERE
            key = (event, origin.address, reason)
            window = self._windows.get(key)
            if window is not None:
                window.further += 1
                return
            self._windows[key] = _Window(event, origin, reason, time.monotonic() + WINDOW_S)
        log.warning(event.value, reason=reason, address=origin.address)
        self._write(event, origin, reason, 1)

    def flush(self, now: float | None = None) -> None:
        """Tell the number of what was counted until its time was over; `now` by the monotonic clock."""
        now = time.monotonic() if now is None else now
        with self._lock:
            over = {key: window for key, window in self._windows.items() if window.until <= now}
            for key in over:
                del self._windows[key]
        for window in over.values():
            if window.further:
                self._write(window.event, window.origin, window.reason, window.further)

    def _write(self, event: Event, origin: Origin, reason: str, times: int) -> None:
        try:
            with self._database.transaction() as session:
                self._audit.record(
                    session,
                    event,
                    Subject(),
                    calling_ae_title=origin.calling_ae_title,
                    called_ae_title=origin.called_ae_title,
                    address=origin.address,
                    reason=reason,
                    times=times,
                )
        except SQLAlchemyError as error:
            log.error("rejection_not_recorded", error=type(error).__name__, times=times)
