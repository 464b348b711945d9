"""A TCP line to a peer that misbehaves as told: it stalls, drips, or breaks after so many bytes."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

NEVER = 2**63


@dataclass(frozen=True)
class Fault:
    """What goes wrong, counted on each connection anew."""

    stall_to_peer_after: int = NEVER
    """From this byte on, nobody reads any more what the node sends."""
    stall_from_peer_after: int = NEVER
    """From this byte on, the peer's bytes do not arrive."""
    drip_from_peer_s: float = 0.0
    """The peer's bytes arrive one by one, with this pause between them."""
    break_to_peer_after: int = NEVER
    """At this byte of ours the connection is reset."""


class FaultyLine:
    """Listens on a port of its own and passes connections on to the peer's."""

    def __init__(self, peer_port: int, fault: Fault) -> None:
        self.fault = fault
        self.connections = 0
        self._peer_port = peer_port
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        for found in (self._listening, *self._sockets):
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in it
            found.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                node, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            peer = socket.create_connection(("127.0.0.1", self._peer_port))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [node, peer]
            for pump in (self._to_peer, self._from_peer):
                threading.Thread(target=self._run, args=(pump, node, peer), daemon=True).start()

    def _run(
        self, pump: Callable[[socket.socket, socket.socket], None], node: socket.socket, peer: socket.socket
    ) -> None:
        with suppress(OSError):  # one of the two is gone: that is what these lines are for
            pump(node, peer)
        if not self._ended.is_set():
            for found in (node, peer):
                with suppress(OSError):
                    found.shutdown(socket.SHUT_RDWR)

    def _to_peer(self, node: socket.socket, peer: socket.socket) -> None:
        passed = 0
        while chunk := node.recv(min(65536, max(1, self.fault.stall_to_peer_after - passed))):
            passed += len(chunk)
            if passed >= self.fault.break_to_peer_after:
                node.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                node.close()
                return
            peer.sendall(chunk)
            if passed >= self.fault.stall_to_peer_after:
                self._ended.wait()
                return

    def _from_peer(self, node: socket.socket, peer: socket.socket) -> None:
        passed = 0
        pause_s = self.fault.drip_from_peer_s
        while chunk := peer.recv(1 if pause_s else min(65536, self.fault.stall_from_peer_after - passed)):
            node.sendall(chunk)
            passed += len(chunk)
            time.sleep(pause_s)
            if passed >= self.fault.stall_from_peer_after:
                self._ended.wait()
                return


@contextmanager
def faulty_line(peer_port: int, fault: Fault) -> Iterator[FaultyLine]:
    """A line to the peer at `peer_port`, closed at the end."""
    line = FaultyLine(peer_port, fault)
    try:
        yield line
    finally:
        line.close()
