"""Reads PDUs (PS3.8 section 9.3) from one connection. Nothing is without limits of time and size."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from socket import socket
from typing import NamedTuple

from dicomnode.settings.network import ConnectionSettings, Limits

HEADER_BYTES = 6
PDV_HEADER_BYTES = 6
HEAD_BYTES = HEADER_BYTES + PDV_HEADER_BYTES
"""What goes before a fragment that has a PDU of its own."""
P_DATA_TF = 0x04
IS_COMMAND = 0x01
IS_LAST = 0x02
LONGEST_NEGOTIATION_BYTES = 1048576
"""An A-ASSOCIATE-RQ with 128 contexts is far below this."""
CHUNK_BYTES = 65536
A_LITTLE_LONGER = 1.25
"""A time-out is not set anew, which is a system call, as long as it exceeds by no more what is left."""


class CutOff(OSError):
    """The peer broke a limit; pynetdicom takes it for a lost connection and ends the association."""


class Idle(Exception):
    """The peer said nothing for as long as it may."""


@dataclass(frozen=True)
class Pdu:
    """One PDU; its content is only valid until the next one is read."""

    kind: int
    content: memoryview


class Head(NamedTuple):
    """What a PDU begins with. Its content is to be read next."""

    kind: int
    content_bytes: int
    context_id: int = 0
    control: int = 0
    fragment_bytes: int | None = None
    """Of the one value that fills a P-DATA-TF, which `context_id` and `control` belong to."""


class Value(NamedTuple):
    """A presentation data value, and where in the content of its PDU it ends."""

    context_id: int
    control: int
    fragment: memoryview
    end: int


def values_in(content: memoryview) -> Iterator[Value]:
    """The presentation data values of a P-DATA-TF (PS3.8 section 9.3.5), up to what is none."""
    at = 0
    while at + PDV_HEADER_BYTES <= len(content):
        end = at + 4 + int.from_bytes(content[at : at + 4], "big")
        if not at + PDV_HEADER_BYTES <= end <= len(content):
            return
        yield Value(content[at + 4], content[at + 5], content[at + PDV_HEADER_BYTES : end], end)
        at = end


def p_data_header(context_id: int, control: int, fragment_bytes: int) -> bytes:
    """What goes before a fragment that has a PDU of its own."""
    value_bytes = fragment_bytes + 2
    return _P_DATA_HEADER.pack(P_DATA_TF, value_bytes + 4, value_bytes, context_id, control)


_P_DATA_HEADER = struct.Struct(">BxLLBB")


class PduReader:
    """Reads from one connection within its limits: for pynetdicom by `receive`, else by `next_pdu`."""

    def __init__(self, channel: socket, rules: ConnectionSettings, *, is_first: bool = True) -> None:
        self._channel = channel
        self._rules = rules
        self._limits: Limits | None = None
        self._deadline = time.monotonic() + rules.association_timeout_s
        self.is_first = is_first
        """Whether the first PDU, the A-ASSOCIATE-RQ, is still to come."""
        self._pdu_type: int | None = None
        """Of the PDU whose header was read and whose rest was not."""
        self._message_bytes = 0
        self._given_back = bytearray()
        self._is_shut = False
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._begun_bytes = 0
        """How much of `_head` was read, and not given to anybody."""
        self._buffer = bytearray()

    def admitted(self, limits: Limits) -> None:
        """From here on, the limits of the peer hold."""
        self._limits = limits

    @property
    def maximum_object_bytes(self) -> int:
        """One message may not carry more."""
        return self._limits.maximum_object_bytes if self._limits else LONGEST_NEGOTIATION_BYTES

    @property
    def has_given_back(self) -> bool:
        """Whether `receive` has something to give without the network."""
        return bool(self._given_back) or self._is_shut

    def give_back(self, kind: int, content: bytes | memoryview) -> None:
        """Have `receive` begin with this PDU, which `next_pdu` gave or which is what is left of that."""
        self._given_back += bytes((kind, 0)) + len(content).to_bytes(4, "big") + content
        self._given_back += self._head[: self._begun_bytes]
        self._begun_bytes = 0

    def shut(self) -> None:
        """To `receive`, the peer has closed."""
        self._given_back.clear()
        self._is_shut = True

    def next_pdu(self) -> Pdu | None:
        """The next whole PDU; None when the peer closed. Raises CutOff, and Idle when nothing begins."""
        head = self.next_head()
        content = None if head is None else self.content(head)
        return None if head is None or content is None else Pdu(head.kind, content)

    def next_head(self) -> Head | None:
        """The beginning of the next PDU, whose content must be read then. As `next_pdu`."""
        idle_timeout_s = self._idle_timeout_s
        count = self._begun_bytes
        if not count:
            self._wait_at_most(idle_timeout_s)
            try:
                count = self._channel.recv_into(self._head)
            except TimeoutError as error:
                raise Idle from error
            except ConnectionError:
                return None
        self._deadline = time.monotonic() + idle_timeout_s
        if count < HEADER_BYTES:
            count = self._fill(self._head, count, HEADER_BYTES)
        kind, content_bytes = self._head[0], int.from_bytes(self._head[2:HEADER_BYTES], "big")
        self._begun_bytes = count
        if count < HEADER_BYTES:
            return None
        self._refuse_too_long(kind, content_bytes)
        if kind != P_DATA_TF or content_bytes <= PDV_HEADER_BYTES:
            return Head(kind, content_bytes)
        if count < HEAD_BYTES:
            self._begun_bytes = count = self._fill(self._head, count, HEAD_BYTES)
        value_bytes = int.from_bytes(self._head[HEADER_BYTES : HEADER_BYTES + 4], "big")
        if count < HEAD_BYTES or value_bytes + 4 != content_bytes:
            return Head(kind, content_bytes)
        return Head(kind, content_bytes, self._head[10], self._head[11], value_bytes - 2)

    def content(self, head: Head) -> memoryview | None:
        """All of the content of the PDU that begins with `head`; None when the peer closed. Raises CutOff."""
        length = head.content_bytes
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        content = memoryview(self._buffer)[:length]
        begun = min(self._begun_bytes - HEADER_BYTES, length)
        content[:begun] = self._head[HEADER_BYTES : HEADER_BYTES + begun]
        self._keep_beyond(HEADER_BYTES + length)
        return content if self._fill(content, begun, length) == length else None

    def read_fragment(self, place: memoryview) -> bool:
        """Read the one value of the PDU to where it belongs; whether the peer let it end. Raises CutOff."""
        self._begun_bytes = 0
        return self._fill(place, 0, len(place)) == len(place)

    def _keep_beyond(self, length: int) -> None:
        """Of what was read with a head, keep what belongs to the next PDU."""
        beyond = self._head[length : self._begun_bytes]
        self._begun_bytes = len(beyond)
        self._head[: len(beyond)] = bytes(beyond)

    def receive(self, count: int) -> bytearray:
        """As AssociationSocket.recv: `count` bytes, fewer when the peer closed. Raises CutOff.

        pynetdicom asks for the six bytes that begin a PDU (PS3.8 9.3.1), then for the rest of it.
        """
        return self._begin() if self._pdu_type is None else self._finish(count)

    def _begin(self) -> bytearray:
        if not self.is_first:
            self._deadline = time.monotonic() + self._idle_timeout_s
        header = self._read(HEADER_BYTES)
        self._pdu_type = header[0] if len(header) == HEADER_BYTES else None
        return header

    def _finish(self, count: int) -> bytearray:
        kind, self._pdu_type = self._pdu_type or 0, None
        self._refuse_too_long(kind, count)
        content = self._read(count)
        self.is_first = False
        if kind == P_DATA_TF:
            self._weigh(content)
        return content

    def _refuse_too_long(self, kind: int, length: int) -> None:
        longest = LONGEST_NEGOTIATION_BYTES
        if kind == P_DATA_TF and self._limits is not None:
            longest = self._limits.maximum_pdu_bytes
        if length > longest:
            raise CutOff(f"a PDU longer than {longest} bytes")

    def _read(self, count: int) -> bytearray:
        content = self._given_back[:count]
        del self._given_back[:count]
        if self._is_shut:
            return content
        while len(content) < count:
            chunk = bytearray(min(CHUNK_BYTES, count - len(content)))
            received = self._fill(memoryview(chunk), 0, len(chunk))
            content += chunk[:received]
            if received < len(chunk):
                break
        self._channel.settimeout(self._idle_timeout_s)  # for what is sent
        return content

    def _fill(self, place: memoryview, filled: int, least: int) -> int:
        """Read on into `place` until so much is in it or the peer closes; returns how much is in it then."""
        while filled < least:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise CutOff(self._too_slow())
            self._wait_at_most(left_s)
            try:
                count = self._channel.recv_into(place[filled:])
            except TimeoutError as error:
                raise CutOff(self._too_slow()) from error
            if not count:
                break
            filled += count
        return filled

    def _wait_at_most(self, seconds: float) -> None:
        """Have the channel wait so long, or hardly longer."""
        now_s = self._channel.gettimeout()
        if now_s is None or not seconds <= now_s <= seconds * A_LITTLE_LONGER:
            self._channel.settimeout(seconds)

    @property
    def _idle_timeout_s(self) -> float:
        return (self._limits or self._rules).idle_timeout_s

    def _too_slow(self) -> str:
        return "no association requested in time" if self.is_first else "a PDU that does not end"

    def _weigh(self, content: bytearray) -> None:
        """Add up the fragments of one message (PS3.8 9.3.5 and annex E)."""
        at = 0
        while at + PDV_HEADER_BYTES <= len(content):
            length = int.from_bytes(content[at : at + 4], "big")
            is_last = content[at + 5] & 0x02
            self._message_bytes += length
            if self._message_bytes > self.maximum_object_bytes:
                raise CutOff(f"an object of more than {self.maximum_object_bytes} bytes")
            if is_last:
                self._message_bytes = 0
            at += 4 + max(length, 2)
