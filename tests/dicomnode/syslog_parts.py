"""Receivers of syslog for tests, and audit messages as they arrive."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lxml import etree

from dicomnode.settings.audit import SyslogSettings

SCHEMA = etree.XMLSchema(file=str(Path(__file__).parent / "audit_message.xsd"))


def parsed(xml: str) -> Any:
    """The root of an audit message that keeps to the standard; fails the test otherwise."""
    root = etree.fromstring(xml.encode())
    SCHEMA.assertValid(root)
    return root


def event_ids(root: Any) -> list[int]:
    """Which events of the trail a message tells of."""
    (uid,) = root.xpath("//@ParticipantObjectID[starts-with(., 'dicomnode:audit_events/')]")
    first, _, last = uid.rpartition("/")[2].partition("..")
    return list(range(int(first), int(last or first) + 1))


def detail(root: Any, name: str) -> str:
    """One of the details that a message carries."""
    (value,) = root.xpath(f"//ParticipantObjectDetail[@type='{name}']/@value")
    return base64.b64decode(value).decode()


class Receiver:
    """Takes octet-counted messages on one TCP connection at a time."""

    def __init__(self, port: int = 0) -> None:
        self.messages: list[str] = []
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def target(self, **values: Any) -> SyslogSettings:
        return SyslogSettings(name="test", host="127.0.0.1", port=self.port, transport="tcp", **values)

    def hang_up(self) -> None:
        for connection in self._open:
            with suppress(OSError):  # the other end may have been first
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()
        self.hang_up()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while length := _length(stream):
                    self.messages.append(stream.read(length).decode())
            except (OSError, ValueError):
                return


def _length(stream: Any) -> int:
    digits = b""
    while (byte := stream.read(1)) not in (b"", b" "):
        digits += byte
    return int(digits) if digits else 0
