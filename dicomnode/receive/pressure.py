"""Takes less when the disk fills up, and everything again only when there is clearly room."""

from __future__ import annotations

import threading
from enum import StrEnum

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.settings.node import ListenerSettings
from dicomnode.spool import Spool

NOT_AVAILABLE = -1

log = structlog.get_logger()


class Flow(StrEnum):
    """How much is taken."""

    OPEN = "open"
    REFUSING = "refusing"
    """Every C-STORE is answered A700; associations are accepted, so that senders are told."""
    CLOSED = "closed"
    """New associations are rejected as transient, too."""


def next_flow(flow: Flow, free_bytes: int, rules: ListenerSettings) -> Flow:
    """What follows from the free space.

    Between the marks the flow stays as it is: space that comes and goes does not make it flap.
    """
    closed, minimum, recovered = (mark * 1e9 for mark in rules.free_gb)
    if free_bytes < closed:
        return Flow.CLOSED
    if free_bytes >= recovered:
        return Flow.OPEN
    if flow is Flow.OPEN and free_bytes < minimum:
        return Flow.REFUSING
    return flow


class DiskGauge:
    """The flow by the free space of the spool's disk. One per receiving process; safe for threads."""

    def __init__(self, spool: Spool, rules: ListenerSettings, database: Database, audit: Audit) -> None:
        self._spool = spool
        self._rules = rules
        self._database = database
        self._audit = audit
        self._flow = Flow.OPEN
        self._lock = threading.Lock()

    def read(self) -> Flow:
        """How much may be taken now; a disk that cannot be asked takes nothing."""
        try:
            free_bytes = self._spool.free_bytes()
        except OSError as error:
            log.error("disk_not_available", error=error.strerror)
            free_bytes = NOT_AVAILABLE
        with self._lock:
            before, self._flow = self._flow, next_flow(self._flow, free_bytes, self._rules)
            flow = self._flow
        if flow is not before:
            self._tell(flow, free_bytes)
        return flow

    def _tell(self, flow: Flow, free_bytes: int) -> None:
        log.warning("disk_flow_changed", flow=flow.value, free_bytes=free_bytes)
        event = Event.DISK_RECOVERED if flow is Flow.OPEN else Event.DISK_LOW
        try:
            with self._database.transaction() as session:
                self._audit.record(session, event, Subject(), flow=flow.value, free_bytes=free_bytes)
        except SQLAlchemyError as error:  # the database may be on the same full disk
            log.error("disk_flow_not_recorded", error=type(error).__name__)
