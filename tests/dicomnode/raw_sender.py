"""A sender that says every byte itself: associations and C-STOREs cut into any fragments."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

ECHO, IMAGE, COMMITMENT = 1, 3, 5
"""Ids of the presentation contexts that are proposed."""
ASSOCIATE_AC, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 4, 5, 6, 7
COMMAND, LAST = 1, 2
ANSWER_TIMEOUT_S = 60.0

Value = tuple[int, int, bytes]
"""A presentation data value: context id, control header and fragment (PS3.8 section 9.3.5)."""


def command_set(*elements: tuple[int, bytes]) -> bytes:
    """An encoded command set (PS3.7 section 6.3.1), with its group length."""
    content = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(content)) + content


def uid(value: str) -> bytes:
    """A UID, padded to an even length."""
    return value.encode() + b"\0" * (len(value) % 2)


def store_request(sop_instance_uid: str, sop_class_uid: str = CTImageStorage, message_id: int = 7) -> bytes:
    """The command set of a C-STORE-RQ."""
    return command_set(
        (0x0002, uid(sop_class_uid)),
        (0x0100, b"\1\0"),
        (0x0110, message_id.to_bytes(2, "little")),
        (0x0700, b"\0\0"),
        (0x0800, b"\0\0"),
        (0x1000, uid(sop_instance_uid)),
    )


def echo_request() -> bytes:
    """The command set of a C-ECHO-RQ."""
    return command_set((0x0002, uid(Verification)), (0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1"))


def values(context_id: int, kind: int, content: bytes, cuts: Iterable[int] = ()) -> list[Value]:
    """`content` as fragments of one kind (COMMAND or 0), cut at these places; the last one says so."""
    places = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(content)), len(content)]
    pieces = [content[start:end] for start, end in pairwise(places)]
    return [(context_id, kind | (LAST if n == len(pieces) - 1 else 0), p) for n, p in enumerate(pieces)]


def p_data(fragments: Sequence[Value]) -> bytes:
    """One P-DATA-TF PDU."""
    content = b"".join(
        struct.pack(">LBB", len(fragment) + 2, context_id, control) + fragment
        for context_id, control, fragment in fragments
    )
    return pdu(P_DATA, content)


def pdu(kind: int, content: bytes = bytes(4)) -> bytes:
    """Any PDU."""
    return struct.pack(">BBL", kind, 0, len(content)) + content


class RawSender:
    """One association, read and written byte by byte."""

    def __init__(self, port: int) -> None:
        self._channel = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S)
        self._channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.say(_request())
        assert self.hear()[0] == ASSOCIATE_AC

    def say(self, content: bytes, pieces: Sequence[int] = ()) -> None:
        """Send it, in packets that end at these places."""
        places = [0, *sorted(place for place in set(pieces) if 0 < place < len(content)), len(content)]
        for start, end in pairwise(places):
            self._channel.sendall(content[start:end])

    def hear(self) -> tuple[int, bytes]:
        """Type and content of the next PDU; type 0 when the other side closed."""
        header = self._read(6)
        if len(header) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBL", header)
        return kind, self._read(length)

    def status(self) -> int:
        """The status of the next answer."""
        kind, content = self.hear()
        assert kind == P_DATA, f"a PDU of type {kind}"
        at = content.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
        return int.from_bytes(content[at : at + 2], "little")

    def end(self) -> int:
        """The kind of PDU that ends the association, after any answers; 0 when it is just closed."""
        while (heard := self.hear())[0] == P_DATA:
            pass
        self._channel.close()
        return heard[0]

    def release(self) -> None:
        """Release the association as the standard has it."""
        self.say(pdu(RELEASE_RQ))
        ended = self.end()
        assert ended == RELEASE_RP, f"a PDU of type {ended}"

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _read(self, count: int) -> bytes:
        content = b""
        try:
            while len(content) < count and (chunk := self._channel.recv(count - len(content))):
                content += chunk
        except ConnectionError:
            pass
        return content


def _request() -> bytes:
    """An A-ASSOCIATE-RQ from PACS to LESIONNODE."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = "PACS", "LESIONNODE"
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received = 16382
    implementation.implementation_class_uid = UID("1.2.3.4")
    primitive.user_information = [longest, implementation]
    primitive.presentation_context_definition_list = [
        _proposed(ECHO, Verification),
        _proposed(IMAGE, CTImageStorage),
        _proposed(COMMITMENT, StorageCommitmentPushModel),
    ]
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    return bytes(request.encode())


def _proposed(context_id: int, sop_class_uid: str) -> PresentationContext:
    context = build_context(sop_class_uid, ExplicitVRLittleEndian)
    context.context_id = context_id
    return context
