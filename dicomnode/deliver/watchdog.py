"""Cuts connections to peers that are neither quick nor dead.

pynetdicom 3.0.4 has no limit for a peer that stops reading, or that sends half a PDU and no more: its
threads then wait in the socket, and aborting the association waits for these threads. Shutting the socket
down from outside frees them all.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from pynetdicom.association import Association

log = structlog.get_logger()


class Watchdog:
    """Knows the connection of one association from its first moment (handler of EVT_CONN_OPEN)."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def on_connection(self, event: Any) -> None:
        """Remember the socket."""
        self._socket = event.assoc.dul.socket.socket

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Cut the connection when this block takes longer."""
        timer = threading.Timer(seconds, self._cut, (seconds,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self, seconds: float) -> None:
        log.warning("connection_cut", after_s=round(seconds, 1))
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("connection_gone_already", error=error.strerror)


def watchdog_of(association: Association) -> Watchdog:
    """A watchdog on an association that stands."""
    watchdog = Watchdog()
    watchdog._socket = association.dul.socket.socket if association.dul.socket else None
    return watchdog
