"""The accepting end of the network: no connection is without limits.

pynetdicom 3.0.4 waits without end for the rest of a PDU, takes a PDU of any length, and gathers an
object of any size in memory. `PduReader` takes the place of its reading; `Server` bounds the number
of connections.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import SO_REUSEPORT, SOL_SOCKET, socket
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicomnode.receive.arrival import Origin
from dicomnode.receive.proxied import NotIntroduced, TrustedProxies, introduced
from dicomnode.receive.takeover import take_over
from dicomnode.receive.turned_away import TurnedAway
from dicomnode.records.audit import Event
from dicomnode.settings.network import ConnectionSettings
from dicomnode.settings.node import PeerSettings
from dicomnode.tls import Credentials, reason_of, says_something, shake_hands
from dicomnode.wire.pdus import CutOff, PduReader

Serve = Callable[[Association, PduReader], None]
"""Serves an established association, as long as what comes is plain."""
SPARE_CONNECTIONS = 12
"""Connections of one address beyond its associations: being opened, rejected or closed."""
ADDRESSES = 4
"""All connections together are bounded by what so many addresses may hold."""


@dataclass
class Connection:
    """One connection and, once it is let in, its peer."""

    address: str
    reader: PduReader
    peer: PeerSettings | None = None


@dataclass
class Connections:
    """All that is connected, counted by address and by peer."""

    rules: ConnectionSettings
    proxies: TrustedProxies = field(init=False)
    _opening: list[str] = field(default_factory=list)
    _held: WeakKeyDictionary[Association, Connection] = field(default_factory=WeakKeyDictionary)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.proxies = TrustedProxies(self.rules.trusted_proxies)

    def open(self, address: str) -> bool:
        """Count a new connection in, unless its address or all together hold too many.

        A trusted proxy may hold as many as all together: they count for those whom it introduces.
        """
        most = self.rules.maximum_associations + SPARE_CONNECTIONS
        with self._lock:
            everybody = [*self._opening, *(connection.address for _, connection in self._alive())]
            crowded = everybody.count(address) >= most and address not in self.proxies
            if crowded or len(everybody) >= most * ADDRESSES:
                return False
            self._opening.append(address)
            return True

    def introduce(self, proxy_address: str, address: str) -> bool:
        """Count for `address` from now on what its proxy has opened, unless it holds too many itself."""
        with self._lock:
            self._opening.remove(proxy_address)
            if self.open(address):
                return True
            self._opening.append(proxy_address)
            return False

    def opened(self, address: str) -> None:
        """It is an association of its own now, or gone."""
        with self._lock:
            self._opening.remove(address)

    def hold(self, association: Association, connection: Connection) -> None:
        """Count it as long as its association lives."""
        with self._lock:
            self._held[association] = connection

    def of(self, association: Association) -> Connection:
        """The connection that an association runs on."""
        return self._held[association]

    def admit(self, association: Association, peer: PeerSettings) -> bool:
        """Let it in as `peer`, unless that peer or all together have enough associations."""
        limits = peer.limits(self.rules)
        with self._lock:
            inside = [
                connection.peer.name
                for held, connection in self._alive()
                if connection.peer is not None and not (held.is_released or held.is_aborted)
            ]
            if len(inside) >= self.rules.maximum_associations:
                return False
            if inside.count(peer.name) >= limits.maximum_associations:
                return False
            connection = self._held[association]
            connection.peer = peer
            connection.reader.admitted(limits)
        association.acceptor.maximum_length = limits.maximum_pdu_bytes
        association.network_timeout = limits.idle_timeout_s
        return True

    def _alive(self) -> list[tuple[Association, Connection]]:
        return [(held, connection) for held, connection in self._held.items() if held.is_alive()]


class _Contexts(list[PresentationContext]):
    """What a port supports. pynetdicom copies each of them for each association, which takes 60 ms."""

    def __deepcopy__(self, _: dict[int, Any]) -> list[PresentationContext]:
        """The same contexts: negotiation reads them, and makes those of the association anew."""
        return list(self)


class _Handler(RequestHandler):  # type: ignore[misc] # pynetdicom ships no types that hold
    """Makes the association of one connection, with our way of reading."""

    server: Server

    def _create_association(self) -> Association:
        association = super()._create_association()
        reader = PduReader(self.request, self.server.connections.rules)
        address = self.client_address[0]

        def receive(count: int) -> bytearray:
            content = bytearray()
            try:
                content = reader.receive(count)
            except CutOff as error:
                self.server.cut(association, address, str(error))
                raise
            finally:
                if reader.is_first and len(content) < count:
                    association.dul.to_user_queue.put(None)  # else it waits on for a request
            return content

        association.dul.socket.recv = receive
        if (serve := self.server.serve) is not None:
            take_over(
                association,
                reader,
                lambda: serve(association, reader),
                lambda reason: self.server.cut(association, address, reason),
            )
        self.server.connections.hold(association, Connection(address, reader))
        return association


class Server(ThreadedAssociationServer):  # type: ignore[misc]
    """A listening port whose connections are counted."""

    request_queue_size = 128
    daemon_threads = True
    contexts: list[PresentationContext]

    def __init__(
        self,
        *arguments: Any,
        connections: Connections,
        turned_away: TurnedAway,
        credentials: Credentials | None,
        serve: Serve | None,
        shared: bool = False,
        **keywords: Any,
    ) -> None:
        """With `credentials` every connection is by TLS; without `serve` pynetdicom does everything.

        A `shared` port may be listened on by other processes of this user, too (SO_REUSEPORT).
        """
        self.connections = connections
        self.serve = serve
        self._turned_away = turned_away
        self._credentials = credentials
        self._shared = shared
        super().__init__(*arguments, request_handler=_Handler, **keywords)
        self.contexts = _Contexts(self.contexts)

    def server_bind(self) -> None:
        """Take the port, or share it."""
        if self._shared:
            self.socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
        super().server_bind()

    def verify_request(self, request: socket, client_address: Any) -> bool:
        """Whether there is room for one more connection; asked before it gets a thread."""
        if self.connections.open(client_address[0]):
            return True
        self._reject(client_address[0], "too many connections")
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread of its own."""
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.connections.opened(client_address[0])
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make the association. What comes before it may be slow and must not hold up the others."""
        timeout_s = self.connections.rules.association_timeout_s
        try:
            if client_address[0] in self.connections.proxies:
                client_address = (self._introduced(request, client_address[0]), *client_address[1:])
            if self._credentials is not None:
                if not says_something(request, timeout_s):
                    self.shutdown_request(request)  # who asks whether the port is open is not turned away
                    return
                request = shake_hands(request, self._credentials.context(), timeout_s)
            super().process_request_thread(request, client_address)
        except NotIntroduced as error:
            self.shutdown_request(request)
            self._reject(client_address[0], str(error))
        except OSError as error:
            self.shutdown_request(request)
            self._reject(client_address[0], f"TLS: {reason_of(error)}")
        finally:
            self.connections.opened(client_address[0])

    def _introduced(self, request: socket, proxy_address: str) -> str:
        address = introduced(request, proxy_address, self.connections.rules.association_timeout_s)
        if not self.connections.introduce(proxy_address, address):
            raise NotIntroduced(f"too many connections of {address} through this proxy")
        return address

    def _reject(self, address: str, reason: str) -> None:
        self._turned_away.tell(Event.ASSOCIATION_REJECTED, Origin("", address, ""), reason)

    def cut(self, association: Association, address: str, reason: str) -> None:
        """Write down that a limit was broken."""
        asked = association.requestor.primitive
        calling = asked.calling_ae_title.strip() if asked else ""
        self._turned_away.tell(Event.ASSOCIATION_CUT, Origin(calling, address, ""), reason)
