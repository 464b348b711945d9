"""The DICOM listener: C-ECHO and C-STORE. Success is answered only for what is durable and recorded."""

from __future__ import annotations

import time
from typing import Any

import structlog
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import PermanentError
from dicomnode.imaging import is_image
from dicomnode.receive.admission import DISK_FULL, NOT_DECIDED, Refusal, admit
from dicomnode.receive.intake import Arrival, Intake, Origin, Outcome
from dicomnode.receive.pressure import DiskGauge, Flow
from dicomnode.receive.visits import Visits
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.settings import Settings
from dicomnode.spool import Spool

TRANSFER_SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
]

# C-STORE statuses (PS3.4 table B.2-1 and PS3.7 annex C)
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xB007
CANNOT_UNDERSTAND = 0xC000

MAXIMUM_PDU_BYTES = 131072
DRAIN_TIMEOUT_S = 20.0

log = structlog.get_logger()


class Listener:
    """One listening port. `start` returns at once."""

    def __init__(self, settings: Settings, database: Database, spool: Spool) -> None:
        self._settings = settings
        self._database = database
        self._audit = Audit("receiver")
        self._intake = Intake(spool, database, self._audit)
        self._visits = Visits(database, self._audit)
        self._disk = DiskGauge(spool, settings.listener, database, self._audit)
        self._server: Any = None

    def start(self) -> None:
        """Open the port. Raises OSError when it is taken."""
        entity = AE(ae_title=self._settings.node.ae_title)
        entity.maximum_associations = self._settings.listener.maximum_associations
        entity.maximum_pdu_size = MAXIMUM_PDU_BYTES
        entity.network_timeout = 60
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            if self._settings.listener.other_objects == "keep" or is_image(str(context.abstract_syntax)):
                entity.add_supported_context(context.abstract_syntax, TRANSFER_SYNTAXES)
        self._server = entity.start_server(
            (self._settings.node.host, self._settings.node.port),
            block=False,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_C_ECHO, lambda _: SUCCESS),
                (evt.EVT_C_STORE, self._on_store),
                *self._visits.handlers,
            ],
        )
        log.info("listener_started", ae_title=self._settings.node.ae_title, port=self._settings.node.port)

    def stop(self) -> None:
        """Close the port and let associations in progress finish, for a while."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.1)

    def _on_requested(self, event: Any) -> None:
        """Reject an association that is not allowed, before anything is negotiated."""
        origin = _origin(event.assoc)
        try:
            refusal = admit(origin, self._settings)
            if refusal is None and self._disk.read() is Flow.CLOSED:
                refusal = DISK_FULL
        except Exception as error:  # pynetdicom would go on as if nothing had happened
            log.error("admission_failed", error=type(error).__name__)
            refusal = NOT_DECIDED
        if refusal is not None:
            self._reject(event.assoc, origin, refusal)

    def _reject(self, association: Any, origin: Origin, refusal: Refusal) -> None:
        association.acse.send_reject(refusal.result, refusal.source, refusal.diagnostic)
        association.is_rejected = True
        association.kill()
        log.warning("association_rejected", reason=refusal.reason, address=origin.address)
        with self._database.transaction() as session:
            self._audit.record(
                session,
                Event.ASSOCIATION_REJECTED,
                Subject(),
                calling_ae_title=origin.calling_ae_title,
                called_ae_title=origin.called_ae_title,
                address=origin.address,
                reason=refusal.reason,
            )

    def _on_store(self, event: Any) -> int:
        """Answer one C-STORE. Whatever goes wrong, the sender is told and nothing is half-kept."""
        if self._disk.read() is not Flow.OPEN:
            return self._refuse(event, OUT_OF_RESOURCES, "free disk space is too low")
        try:
            outcome = self._intake.take(_arrival(event))
        except PermanentError as error:
            return self._refuse(event, CANNOT_UNDERSTAND, str(error))
        except OSError as error:
            return self._refuse(event, OUT_OF_RESOURCES, f"the disk did not take it: {error.strerror}")
        except SQLAlchemyError as error:
            log.error("instance_not_recorded", error=type(error).__name__)
            return PROCESSING_FAILURE
        return DOES_NOT_MATCH if outcome is Outcome.ALTERED else SUCCESS

    def _refuse(self, event: Any, status: int, reason: str) -> int:
        sop_instance_uid = str(event.request.AffectedSOPInstanceUID)
        log.warning(
            "instance_refused", status=f"{status:04X}", reason=reason, sop_instance_uid=sop_instance_uid
        )
        try:
            with self._database.transaction() as session:
                self._audit.record(
                    session,
                    Event.INSTANCE_REFUSED,
                    Subject(sop_instance_uid=sop_instance_uid),
                    calling_ae_title=_origin(event.assoc).calling_ae_title,
                    status=f"{status:04X}",
                    reason=reason,
                )
        except (SQLAlchemyError, OSError) as error:
            log.error("refusal_not_recorded", error=type(error).__name__)
        return status


def _origin(association: Any) -> Origin:
    requested = association.requestor.primitive
    return Origin(
        calling_ae_title=requested.calling_ae_title.strip(),
        address=association.requestor.address,
        called_ae_title=requested.called_ae_title.strip(),
    )


def _arrival(event: Any) -> Arrival:
    encoded = event.request.DataSet.getvalue()
    with_meta = event.encoded_dataset(include_meta=True)
    return Arrival(
        file_header=with_meta[: len(with_meta) - len(encoded)],
        encoded=encoded,
        sop_class_uid=str(event.request.AffectedSOPClassUID),
        sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        origin=_origin(event.assoc),
    )
