"""Answers C-STORE: success only for what is durable and recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import PermanentError, TransientError
from dicomnode.receive.arrival import Arrival, Origin, arrival_of
from dicomnode.receive.associations import origin_of
from dicomnode.receive.intake import Outcome
from dicomnode.receive.pressure import DiskGauge, Flow
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database

# C-STORE statuses (PS3.4 table B.2-1 and PS3.7 annex C)
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xB007
CANNOT_UNDERSTAND = 0xC000

log = structlog.get_logger()


class Taking(Protocol):
    """Takes arrivals in; see `Intake.take`."""

    def take(self, arrival: Arrival) -> Outcome:
        """When this returns, the instance can no longer be lost."""


class Storing:
    """Takes what comes by C-STORE. Whatever goes wrong, the sender is told and nothing is half-kept."""

    def __init__(self, intake: Taking, disk: DiskGauge, database: Database, audit: Audit) -> None:
        self._intake = intake
        self._disk = disk
        self._database = database
        self._audit = audit

    def on_store(self, event: Any) -> int:
        """Handles pynetdicom's EVT_C_STORE on our port; returns the status."""
        return self.store(event, origin_of(event.assoc))

    def store(self, event: Any, origin: Origin) -> int:
        """Take what `origin` sends on whatever association; returns the status."""
        return self.answer(
            str(event.request.AffectedSOPInstanceUID),
            origin,
            lambda: self._intake.take(arrival_of(event, origin)),
        )

    def answer(self, sop_instance_uid: str, origin: Origin, take: Callable[[], Outcome]) -> int:
        """The status that follows from what `take` makes of an instance."""
        if self._disk.read() is not Flow.OPEN:
            reason = "free disk space is too low"
            return self._refuse(sop_instance_uid, origin, OUT_OF_RESOURCES, reason)
        try:
            outcome = take()
        except PermanentError as error:
            return self._refuse(sop_instance_uid, origin, CANNOT_UNDERSTAND, str(error))
        except OSError as error:
            reason = f"the disk did not take it: {error.strerror}"
            return self._refuse(sop_instance_uid, origin, OUT_OF_RESOURCES, reason)
        except MemoryError:
            reason = "too little memory for this object now"
            return self._refuse(sop_instance_uid, origin, OUT_OF_RESOURCES, reason)
        except (SQLAlchemyError, TransientError) as error:
            log.error("instance_not_recorded", error=type(error).__name__)
            return PROCESSING_FAILURE
        return DOES_NOT_MATCH if outcome is Outcome.ALTERED else SUCCESS

    def _refuse(self, sop_instance_uid: str, origin: Origin, status: int, reason: str) -> int:
        log.warning(
            "instance_refused", status=f"{status:04X}", reason=reason, sop_instance_uid=sop_instance_uid
        )
        try:
            with self._database.transaction(beside_others=True) as session:
                self._audit.record(
                    session,
                    Event.INSTANCE_REFUSED,
                    Subject(sop_instance_uid=sop_instance_uid),
                    calling_ae_title=origin.calling_ae_title,
                    status=f"{status:04X}",
                    reason=reason,
                )
        except (SQLAlchemyError, OSError) as error:
            log.error("refusal_not_recorded", error=type(error).__name__)
        return status
