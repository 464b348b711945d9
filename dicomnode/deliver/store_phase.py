"""C-STORE requests on an association that stands, said and heard without pynetdicom.

pynetdicom 3.0.4 polls twice for each response, copies each data set several times on its way into PDUs, and
may lose a response to its own reactor. Here the data set goes from its file to the socket in PDUs as long as
the peer takes them, and the response is waited for in the operating system. Every wait has an end.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import BinaryIO

from dicomnode.wire.command_set import LONGEST_RESPONSE_BYTES, read_store_response, store_request
from dicomnode.wire.pdus import (
    IS_COMMAND,
    IS_LAST,
    P_DATA_TF,
    PDV_HEADER_BYTES,
    Idle,
    Pdu,
    PduReader,
    p_data_header,
    values_in,
)

USUAL_PDU_BYTES = 131072
"""Where the peer names no limit; longer PDUs are no faster."""
SHORTEST_PDU_BYTES = PDV_HEADER_BYTES + 2
BATCH_BYTES = 1 << 20
"""Read from the file at a time."""
MOST_FRAGMENTS = 256
"""In a batch: the system takes at most 1024 buffers in one call."""
LARGEST_MESSAGE_ID = 0xFFFF


class NoAnswer(Exception):
    """The object in flight was not answered, and the association must end."""


class StorePhase:
    """C-STOREs one after the other, on a connection that nobody else reads or writes meanwhile."""

    def __init__(self, channel: socket.socket, reader: PduReader, longest_pdu_bytes: int) -> None:
        """`longest_pdu_bytes` is the peer's Maximum Length Received (PS3.8 annex D.1), 0 for no limit."""
        self._channel = channel
        self._reader = reader
        self._longest_pdu_bytes = longest_pdu_bytes
        longest = min(longest_pdu_bytes or USUAL_PDU_BYTES, BATCH_BYTES)
        self._fragment_bytes = max(2, (longest - PDV_HEADER_BYTES) // 2 * 2)
        count = min(MOST_FRAGMENTS, BATCH_BYTES // self._fragment_bytes)
        self._batch = memoryview(bytearray(count * self._fragment_bytes))
        self._message_id = 0
        self.in_flight = False
        """An object has been begun and not been answered."""
        self.is_over = False
        """The peer has ended the association, or the connection is cut; the reader tells pynetdicom so."""

    def store(
        self,
        context_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        data_set: BinaryIO,
        size_bytes: int,
        deadline: float,
    ) -> int:
        """Send one object and return the status that the peer answers with.

        All of it ends at `deadline` (of the monotonic clock), and one PDU of the response later at most.
        Raises NoAnswer; what the peer said instead of a response is then given back to the reader.
        """
        self.in_flight = True
        if 0 < self._longest_pdu_bytes < SHORTEST_PDU_BYTES:
            raise NoAnswer(f"the peer takes PDUs of {self._longest_pdu_bytes} bytes only")
        self._message_id = self._message_id % LARGEST_MESSAGE_ID + 1
        request = memoryview(store_request(self._message_id, sop_class_uid, sop_instance_uid))
        said = self._framed(context_id, IS_COMMAND, request, is_end=True)
        for batch, is_end in self._batches(data_set, size_bytes):
            self._say([*said, *self._framed(context_id, 0, batch, is_end=is_end)], deadline)
            said = iter(())
        status = self._hear(deadline)
        self.in_flight = False
        return status

    def _batches(self, data_set: BinaryIO, size_bytes: int) -> Iterator[tuple[memoryview, bool]]:
        """The data set piece by piece, and of each piece whether it is the last."""
        left = size_bytes
        while True:
            batch = self._batch[: min(left, len(self._batch))]
            try:
                count = data_set.readinto(batch)  # type: ignore[attr-defined] # files and BytesIO have it
            except OSError as error:
                raise NoAnswer(f"the file cannot be read ({error.strerror})") from error
            if count < len(batch):
                raise NoAnswer("the file is shorter than it was")
            left -= count
            yield batch, not left
            if not left:
                return

    def _framed(
        self, context_id: int, control: int, content: memoryview, *, is_end: bool
    ) -> Iterator[bytes | memoryview]:
        """`content` in fragments, each in a PDU of its own."""
        for start in range(0, max(1, len(content)), self._fragment_bytes):
            fragment = content[start : start + self._fragment_bytes]
            last = IS_LAST if is_end and start + self._fragment_bytes >= len(content) else 0
            yield p_data_header(context_id, control | last, len(fragment))
            yield fragment

    def _say(self, pieces: Sequence[bytes | memoryview], deadline: float) -> None:
        try:
            if isinstance(self._channel, ssl.SSLSocket):  # it cannot gather
                self._channel.settimeout(_left_s(deadline))
                self._channel.sendall(b"".join(pieces))
                return
            while pieces:
                self._channel.settimeout(_left_s(deadline))
                pieces = _without(pieces, self._channel.sendmsg(pieces))
        except TimeoutError as error:
            self._cut()
            raise NoAnswer("the peer takes the object too slowly") from error
        except OSError as error:
            self._cut()
            raise NoAnswer("the connection is lost") from error

    def _hear(self, deadline: float) -> int:
        """The status in the response to the last request, however it is cut into fragments."""
        encoded = bytearray()
        is_whole = False
        while not is_whole:
            pdu = self._next_pdu(deadline)
            at = 0
            for value in values_in(pdu.content):
                encoded += value.fragment
                if is_whole or not value.control & IS_COMMAND or len(encoded) > LONGEST_RESPONSE_BYTES:
                    raise NoAnswer("the peer said something other than a response")
                is_whole, at = bool(value.control & IS_LAST), value.end
            if at < len(pdu.content):
                raise NoAnswer("the peer said something that is no presentation data value")
        response = read_store_response(bytes(encoded))
        if response is None or response.responded_to != self._message_id:
            raise NoAnswer("the peer did not answer this request but something else")
        return response.status

    def _next_pdu(self, deadline: float) -> Pdu:
        """The next P-DATA-TF; whatever else comes is given back."""
        if time.monotonic() > deadline:
            raise NoAnswer("no response: timed out")
        try:
            pdu = self._reader.next_pdu()
        except Idle as error:
            raise NoAnswer("no response: timed out") from error
        except OSError as error:
            self._cut()
            raise NoAnswer("the connection is lost, or its peer too slow") from error
        if pdu is None:
            self._cut()
            raise NoAnswer("the peer closed the connection")
        if pdu.kind != P_DATA_TF:
            self._reader.give_back(pdu.kind, pdu.content)
            self.is_over = True
            raise NoAnswer("the peer ended the association")
        return pdu

    def _cut(self) -> None:
        """Nothing can be said on this connection any more."""
        self._reader.shut()
        self.is_over = True
        try:
            self._channel.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            return


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _without(pieces: Sequence[bytes | memoryview], count: int) -> list[bytes | memoryview]:
    """What is left of the pieces behind their first `count` bytes."""
    for number, piece in enumerate(pieces):
        if count < len(piece):
            return list(chain((memoryview(piece)[count:],), pieces[number + 1 :]))
        count -= len(piece)
    return []
