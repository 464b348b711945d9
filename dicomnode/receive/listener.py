"""The DICOM listener: ports, presentation contexts, and who handles what."""

from __future__ import annotations

import threading
import time

import structlog
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicomnode.deliver.asking_again import ask_again_soon
from dicomnode.deliver.commitment import Commitment
from dicomnode.imaging import is_image
from dicomnode.receive.acknowledging import Acknowledging, StartRecorder, recorder_in_a_thread
from dicomnode.receive.associations import Associations
from dicomnode.receive.commitment import CommitmentDesk
from dicomnode.receive.connections import Connections, Server
from dicomnode.receive.intake import Intake
from dicomnode.receive.pressure import DiskGauge
from dicomnode.receive.reception import Reception
from dicomnode.receive.storing import SUCCESS, Storing
from dicomnode.receive.syntaxes import TRANSFER_SYNTAXES
from dicomnode.receive.turned_away import TurnedAway
from dicomnode.receive.visits import Visits
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from dicomnode.tls import Credentials

DRAIN_TIMEOUT_S = 20.0
FLUSH_INTERVAL_S = 5.0
NO_LIMIT = 1_000_000
"""Associations are counted and rejected by ourselves, so that it is audited."""

log = structlog.get_logger()


class Listener:
    """The ports that are listened on, plain and TLS. `start` returns at once."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        spool: Spool,
        start_recorder: StartRecorder | None = None,
    ) -> None:
        """Without `start_recorder` the recorder is a thread beside those that receive."""
        self._audit = audit = Audit("receiver")
        self._database = database
        self._settings = settings
        self._turned_away = TurnedAway(database, audit)
        self._connections = Connections(settings.listener)
        disk = DiskGauge(spool, settings.listener, database, audit)
        self._associations = Associations(settings, disk, self._connections, self._turned_away)
        self._intake = Intake(spool, database, audit)
        start = start_recorder or recorder_in_a_thread(spool, database, audit)
        self._acknowledging = Acknowledging(spool, database, self._intake, start)
        self._storing = Storing(self._acknowledging, disk, database, audit)
        self._visits = Visits(database, audit, self._acknowledging.flush)
        self._reception = Reception(self._acknowledging, self._storing, self._visits)
        self._commitment = CommitmentDesk(
            Commitment(settings, database), self._connections, database, audit, self._acknowledging.flush
        )
        self._stopping = threading.Event()
        self._servers: list[Server] = []

    @property
    def ports(self) -> list[int]:
        """The ports that are open."""
        return [server.server_address[1] for server in self._servers]

    def start(self) -> None:
        """Open the ports. Raises OSError when one is taken, ConfigurationError for unusable certificates."""
        self._acknowledging.open()
        entity = self._entity()
        tls = self._settings.tls
        for port in self._settings.dicom_ports:
            if tls is not None and port == tls.port:
                self._open(entity, port, Credentials(tls, server=True, changed=self._certificate_changed))
            else:
                self._open(entity, port, None)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, name="port", daemon=True).start()
        threading.Thread(target=self._flush, name="turned away", daemon=True).start()
        ask_again_soon(self._database)
        log.info("listener_started", ae_title=self._settings.node.ae_title, ports=self.ports)

    def _open(self, entity: AE, port: int, credentials: Credentials | None) -> None:
        server = entity.make_server(
            (self._settings.node.host, port),
            evt_handlers=[
                (evt.EVT_REQUESTED, self._associations.on_requested),
                (evt.EVT_C_ECHO, lambda _: SUCCESS),
                (evt.EVT_C_STORE, self._storing.on_store),
                (evt.EVT_N_ACTION, self._commitment.on_action),
                (evt.EVT_N_EVENT_REPORT, self._commitment.on_report),
                *self._visits.handlers,
            ],
            server_class=Server,
            connections=self._connections,
            turned_away=self._turned_away,
            credentials=credentials,
            serve=self._reception.serve if self._settings.listener.fast_path else None,
            shared=self._settings.listener.processes > 1,
        )
        entity._servers.append(server)  # where its shutdown looks for it
        self._servers.append(server)

    def _certificate_changed(self, problem: str | None) -> None:
        event = Event.CERTIFICATE_NOT_RELOADED if problem else Event.CERTIFICATE_RELOADED
        log.warning(event.value, reason=problem)
        with self._database.transaction() as session:
            self._audit.record(session, event, Subject(), **({"reason": problem} if problem else {}))

    def flush(self) -> None:
        """Wait until what was acknowledged is recorded. Raises TransientError when that takes too long."""
        self._acknowledging.flush()

    def stop(self) -> None:
        """Close the ports and let associations in progress finish, for a while."""
        for server in self._servers:
            server.shutdown()
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        for server in self._servers:
            while server.active_associations and time.monotonic() < deadline:
                time.sleep(0.1)
        self._servers.clear()
        self._acknowledging.close()
        self._intake.close()
        self._stopping.set()
        self._turned_away.flush(float("inf"))

    def _entity(self) -> AE:
        entity = AE(ae_title=self._settings.node.ae_title)
        entity.maximum_associations = NO_LIMIT
        entity.maximum_pdu_size = self._settings.listener.maximum_pdu_bytes
        entity.network_timeout = self._settings.listener.idle_timeout_s
        entity.acse_timeout = self._settings.listener.association_timeout_s
        entity.add_supported_context(Verification)
        # Senders ask us as SCP; destinations report to us as SCU, on associations of their own.
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        for context in AllStoragePresentationContexts:
            if self._settings.listener.other_objects == "keep" or is_image(str(context.abstract_syntax)):
                entity.add_supported_context(context.abstract_syntax, TRANSFER_SYNTAXES)
        return entity

    def _flush(self) -> None:
        while not self._stopping.wait(FLUSH_INTERVAL_S):
            self._turned_away.flush()
