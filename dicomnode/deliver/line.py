"""Takes the connection of an association that we asked for from pynetdicom, and gives it back.

pynetdicom negotiates, before that and after it: roles, TLS, release, abort. In between its thread that reads
the network (3.0.4) waits before it looks at the socket, and reads nothing that is not its own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom.association import Association

from dicomnode.deliver.answers import PeerUnavailable
from dicomnode.deliver.reactor import PARKING_TIMEOUT_S, parked_reactor
from dicomnode.settings.network import ConnectionSettings
from dicomnode.wire.handover import DATA_TRANSFER, look_again
from dicomnode.wire.pdus import PduReader


@contextmanager
def taken_line(
    association: Association, response_timeout_s: float
) -> Iterator[tuple[socket.socket, PduReader]]:
    """Within this block the socket is the caller's; what its reader is given back goes to pynetdicom then.

    Raises PeerUnavailable when the association has ended already.
    """
    provider: Any = association.dul
    gate = _Gate(provider)
    with parked_reactor(association):
        provider._is_transport_event = gate.look
        try:
            is_parked = gate.reached.wait(PARKING_TIMEOUT_S)
            channel = provider.socket.socket if provider.socket else None
            if not is_parked or channel is None or provider.state_machine.current_state != DATA_TRANSFER:
                raise PeerUnavailable("the association ended before anything was sent")
            gate.reader = PduReader(channel, _limits(response_timeout_s), is_first=False)
            provider.socket.recv = gate.reader.receive
            yield channel, gate.reader
        finally:
            provider._idle_timer.restart()
            gate.opened.set()


def _limits(response_timeout_s: float) -> ConnectionSettings:
    return ConnectionSettings(idle_timeout_s=response_timeout_s)


class _Gate:
    """Takes the place of pynetdicom's look at the socket, and holds it up until it is opened."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._look = provider._is_transport_event
        self.reached, self.opened = threading.Event(), threading.Event()
        self.reader: PduReader | None = None

    def look(self) -> bool:
        """As DULServiceProvider._is_transport_event."""
        self.reached.set()
        self.opened.wait()
        if self.reader is None:
            return bool(self._look())
        return look_again(self._provider, self.reader, self._look)
