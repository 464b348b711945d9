"""Syslog messages (RFC 5424) on their way by UDP (RFC 5426), TCP (RFC 6587) or TLS (RFC 5425).

Syslog has no answers, so a message that was written may still be lost with a receiver that dies. What
can be known is made sure of: that the receiver's machine acknowledged every byte, and did not hang up.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.settings.audit import SyslogSettings

TIMEOUT_S = 10.0
DATAGRAM_PAUSE_S = 0.003
"""Between datagrams: a burst of 200 overran the buffer of a real rsyslog, which kept 168 of 450."""
OBJECTION_S = 2.0
"""How long a receiver has to object to our certificate; TLS 1.3 tells the client no earlier."""
FACILITY = 10
"""Security and authorization."""
NOTICE, WARNING = 5, 4
MESSAGE_ID = "DICOM+RFC3881"
BYTE_ORDER_MARK = "\ufeff"


def syslog_message(at: datetime, host: str, severity: int, text: str) -> bytes:
    """One message of RFC 5424 with the header that PS3.15 A.6 asks for."""
    stamp = f"{at:%Y-%m-%dT%H:%M:%S.%f}Z"
    name = "".join(c for c in host if 33 <= ord(c) <= 126)[:255] or "-"
    header = f"<{FACILITY * 8 + severity}>1 {stamp} {name} dicomnode {os.getpid()} {MESSAGE_ID} - "
    return (header + BYTE_ORDER_MARK + text).encode()


class Sender(Protocol):
    """A way to a receiver."""

    def send(self, batch: Sequence[bytes]) -> None:
        """Send messages in order. Raises TransientError when the receiver did not take all of them."""

    def close(self) -> None:
        """Hang up; the next message connects anew."""


def sender_to(target: SyslogSettings) -> Sender:
    """The way to a configured receiver. Raises ConfigurationError for certificates that cannot be used."""
    if target.transport == "udp":
        return UdpSender(target)
    return StreamSender(target, tls_context(target) if target.transport == "tls" else None)


def tls_context(target: SyslogSettings) -> ssl.SSLContext:
    """What a receiver must prove, and what we show it."""
    try:
        context = ssl.create_default_context(cafile=str(target.ca) if target.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.certificate and target.key:
            context.load_cert_chain(target.certificate, target.key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"audit.syslog {target.name}: ca, certificate or key cannot be used ({error})"
        ) from error
    return context


class UdpSender:
    """Datagrams; nobody ever knows whether they arrive."""

    def __init__(self, target: SyslogSettings) -> None:
        self._target = target

    def send(self, batch: Sequence[bytes]) -> None:
        """One datagram for each message. Raises TransientError when the network refuses one."""
        target = self._target
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                target.host, target.port, type=socket.SOCK_DGRAM
            )[0]
            with socket.socket(family, kind, protocol) as datagrams:
                datagrams.connect(address)  # so that a closed port is told
                for message in batch:
                    datagrams.send(message)
                    time.sleep(DATAGRAM_PAUSE_S)
        except OSError as error:
            raise _away(target, error) from error

    def close(self) -> None:
        """Nothing to hang up."""


class StreamSender:
    """One connection, kept open."""

    def __init__(self, target: SyslogSettings, context: ssl.SSLContext | None) -> None:
        self._target = target
        self._context = context
        self._stream: socket.socket | None = None

    def send(self, batch: Sequence[bytes]) -> None:
        """Write all messages and wait until the other machine has them. Raises TransientError."""
        try:
            stream = self._stream or self._connect()
            self._stream = stream
            _listen(stream, 0.0)
            stream.sendall(b"".join(b"%d %s" % (len(message), message) for message in batch))
            _wait_for_acknowledgement(stream)
            _listen(stream, 0.0)
        except OSError as error:  # ssl.SSLError and time-outs too
            self.close()
            raise _away(self._target, error) from error

    def close(self) -> None:
        """Hang up."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _connect(self) -> socket.socket:
        target = self._target
        stream = socket.create_connection((target.host, target.port), TIMEOUT_S)
        if self._context is None:
            return stream
        try:
            secured = self._context.wrap_socket(stream, server_hostname=target.host)
        except OSError:
            stream.close()
            raise
        _listen(secured, OBJECTION_S)
        return secured


def _listen(stream: socket.socket, timeout_s: float) -> None:
    """Hear what the receiver says, which is nothing unless it hangs up. Raises OSError when it did."""
    deadline = time.monotonic() + timeout_s
    stream.setblocking(False)
    try:
        while True:
            try:
                if not stream.recv(4096):
                    raise ConnectionResetError("the receiver hung up")
            except (BlockingIOError, ssl.SSLWantReadError):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
                    return
    finally:
        stream.settimeout(TIMEOUT_S)


def _wait_for_acknowledgement(stream: socket.socket) -> None:
    """Wait until the kernel at the other end has every byte. Raises TimeoutError."""
    deadline = time.monotonic() + TIMEOUT_S
    while _unacknowledged_bytes(stream):
        if time.monotonic() > deadline:
            raise TimeoutError("the receiver does not take what was sent")
        time.sleep(0.005)


def _unacknowledged_bytes(stream: socket.socket) -> int:
    answer = fcntl.ioctl(stream.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    count: int = struct.unpack("i", answer)[0]
    return count


def _away(target: SyslogSettings, error: OSError) -> TransientError:
    told = error.strerror or str(error) or type(error).__name__
    return TransientError(f"syslog {target.name} at {target.host}:{target.port}: {told}")
