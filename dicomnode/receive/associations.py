"""Lets an association in or rejects it, before anything is negotiated."""

from __future__ import annotations

from ssl import SSLSocket
from typing import Any

import structlog
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicomnode.receive.admission import DISK_FULL, NOT_DECIDED, TOO_MANY, Refusal, admit
from dicomnode.receive.arrival import Origin
from dicomnode.receive.connections import Connections
from dicomnode.receive.pressure import DiskGauge, Flow
from dicomnode.receive.turned_away import TurnedAway
from dicomnode.records.audit import Event
from dicomnode.settings.node import Settings
from dicomnode.tls import names_of

FOR_EVERYBODY = (Verification, StorageCommitmentPushModel)

log = structlog.get_logger()


class Associations:
    """Decides about every A-ASSOCIATE-RQ of one listener."""

    def __init__(
        self, settings: Settings, disk: DiskGauge, connections: Connections, turned_away: TurnedAway
    ) -> None:
        self._settings = settings
        self._disk = disk
        self._connections = connections
        self._turned_away = turned_away

    def on_requested(self, event: Any) -> None:
        """Handles pynetdicom's EVT_REQUESTED."""
        origin = origin_of(event.assoc)
        try:
            refusal = self._decide(event.assoc, origin)
        except Exception as error:  # pynetdicom would go on as if nothing had happened
            log.error("admission_failed", error=type(error).__name__)
            refusal = NOT_DECIDED
        if refusal is not None:
            self._reject(event.assoc, origin, refusal)

    def _decide(self, association: Any, origin: Origin) -> Refusal | None:
        channel = association.dul.socket.socket
        names = names_of(channel) if isinstance(channel, SSLSocket) else None
        peer = admit(origin, self._settings, names)
        if isinstance(peer, Refusal):
            return peer
        if self._disk.read() is Flow.CLOSED:
            return DISK_FULL
        if not peer.may_send:
            association.acceptor.supported_contexts = [
                context
                for context in association.acceptor.supported_contexts
                if context.abstract_syntax in FOR_EVERYBODY
            ]
        return None if self._connections.admit(association, peer) else TOO_MANY

    def _reject(self, association: Any, origin: Origin, refusal: Refusal) -> None:
        association.acse.send_reject(refusal.result, refusal.source, refusal.diagnostic)
        association.is_rejected = True
        association.kill()
        self._turned_away.tell(Event.ASSOCIATION_REJECTED, origin, refusal.reason)


def origin_of(association: Any) -> Origin:
    """Who asked for an association, as the A-ASSOCIATE-RQ says, and from where it came."""
    requested = association.requestor.primitive
    return Origin(
        calling_ae_title=requested.calling_ae_title.strip(),
        address=association.requestor.address,
        called_ae_title=requested.called_ae_title.strip(),
    )
