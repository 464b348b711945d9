"""Bytes of peers, read in this process: what comes on an association, and what a syslog receiver says."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import cache, partial
from io import BytesIO

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicomnode.deliver.store_phase import NoAnswer, StorePhase
from dicomnode.errors import TransientError
from dicomnode.receive.data_phase import Context, DataPhase, Intrusion
from dicomnode.settings.audit import SyslogSettings
from dicomnode.settings.network import ConnectionSettings, Limits
from dicomnode.syslog.senders import StreamSender
from dicomnode.wire.command_set import Request
from dicomnode.wire.pdus import CutOff, Idle, PduReader
from tests.dicomnode.raw_sender import (
    COMMAND,
    ECHO,
    IMAGE,
    RELEASE_RQ,
    command_set,
    echo_request,
    p_data,
    pdu,
    store_request,
    values,
)

SUCCESS = 0x0000
CONTEXTS = {IMAGE: Context(str(CTImageStorage), str(ExplicitVRLittleEndian))}
RULES = ConnectionSettings()
LIMITS = Limits(
    maximum_associations=1, maximum_pdu_bytes=131072, maximum_object_bytes=1_000_000, idle_timeout_s=5.0
)
DEADLINE_S = 30.0
LONGEST_SAID_BYTES = 100_000
"""Must fit into the buffer of a socket: nobody writes while the other reads."""


class _Counted:
    """A parcel that must be whole or dropped, never both."""

    def __init__(self) -> None:
        self.size_bytes, self.ends = 0, 0

    def room(self, count: int) -> memoryview:
        assert not self.ends, "more of an object that has ended"
        return memoryview(bytearray(count))

    def came(self, count: int) -> None:
        self.size_bytes += count

    def deliver(self) -> int:
        self.ends += 1
        return SUCCESS

    def drop(self) -> None:
        self.ends += 1


def conversations() -> list[bytes]:
    """What good senders say once their association is accepted."""
    echo = p_data(values(ECHO, COMMAND, echo_request()))
    request = p_data(values(IMAGE, COMMAND, store_request("1.2.3")))
    content = bytes(range(256)) * 4
    whole = p_data(values(IMAGE, 0, content))
    cut = p_data(values(IMAGE, 0, content, (100, 700)))
    one_pdu = p_data([*values(IMAGE, COMMAND, store_request("1.2.4")), *values(IMAGE, 0, content)])
    return [echo + pdu(RELEASE_RQ), request + whole, request + cut + echo, one_pdu + pdu(RELEASE_RQ)]


def said(content: bytes) -> str:
    """PDUs on an accepted association, read on the fast path until that gives up."""
    ours, theirs = socket.socketpair()
    parcels: list[_Counted] = []
    answers: list[int] = []

    def begin(_: Request, __: Context) -> _Counted:
        parcels.append(_Counted())
        return parcels[-1]

    def answered(_: Request, status: int) -> None:
        answers.append(status)

    with ours, theirs:
        theirs.sendall(content[:LONGEST_SAID_BYTES])
        theirs.shutdown(socket.SHUT_WR)
        reader = PduReader(ours, RULES)
        reader.admitted(LIMITS)
        phase = DataPhase(reader, ours.sendall, CONTEXTS, frozenset({ECHO}), begin, answered)
        with suppress(CutOff, Idle, Intrusion):
            phase.run()
    assert all(parcel.ends == 1 for parcel in parcels), "an object that neither came nor was dropped"
    return "taken" if answers else "refused"


def answers() -> list[bytes]:
    """What a good peer says to a C-STORE-RQ whose message id is 1."""
    response = command_set((0x0100, b"\1\x80"), (0x0120, b"\1\0"), (0x0800, b"\1\1"), (0x0900, b"\0\0"))
    whole = p_data(values(IMAGE, COMMAND, response))
    cut = b"".join(p_data([value]) for value in values(IMAGE, COMMAND, response, (9, 30)))
    return [whole, cut, p_data(values(IMAGE, COMMAND, response, (20,))), pdu(RELEASE_RQ)]


def answered(content: bytes) -> str:
    """What a peer says to an object of ours, until it is a response or ends the association."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(content[:LONGEST_SAID_BYTES])
        theirs.shutdown(socket.SHUT_WR)
        phase = StorePhase(ours, PduReader(ours, RULES, is_first=False), 0)
        try:
            phase.store(
                IMAGE, str(CTImageStorage), "1.2.3", BytesIO(b"1234"), 4, time.monotonic() + DEADLINE_S
            )
        except NoAnswer:
            return "refused"
    return "taken"


def objected(content: bytes) -> str:
    """What a syslog receiver says over TLS or TCP, where it has nothing to say."""
    taken = False
    for context in (None, _context()):
        with _Receiver(content) as receiver:
            target = SyslogSettings(name="fuzz", host="127.0.0.1", port=receiver.port)
            sender = StreamSender(target, context)
            with suppress(TransientError):
                sender.send([b"<85>1 - - dicomnode - - - x"])
                taken = True
            sender.close()
    return "taken" if taken else "refused"


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Receiver:
    """Listens once, says what it has to say, and hears one message or nothing."""

    def __init__(self, content: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=partial(self._answer, content[:LONGEST_SAID_BYTES]))

    def __enter__(self) -> _Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _answer(self, content: bytes) -> None:
        with suppress(OSError):
            channel, _ = self._socket.accept()
            with channel:
                channel.settimeout(5.0)
                channel.sendall(content)
                channel.recv(4096)
