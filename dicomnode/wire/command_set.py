"""Command sets of C-STORE and C-ECHO (PS3.7 chapter 9, in Implicit VR Little Endian, section 6.3.1)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.uid import RE_VALID_UID

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
RESPONSE = 0x8000
"""Added to the command field of a request, it is that of its response."""
NO_DATA_SET = 0x0101
A_DATA_SET = 0x0001
"""Any other value than NO_DATA_SET (PS3.7 section 9.3.1.1); this is what DCMTK sends."""
MEDIUM = 0x0000

COMMAND_GROUP = 0x0000
SOP_CLASS_UID = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
PRIORITY = 0x0700
RESPONDED_TO = 0x0120
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
SOP_INSTANCE_UID = 0x1000
MOVE_ORIGINATOR = 0x1030
KNOWN = {
    COMMAND_GROUP, SOP_CLASS_UID, COMMAND_FIELD, MESSAGE_ID, PRIORITY, DATA_SET_TYPE, SOP_INSTANCE_UID,
    MOVE_ORIGINATOR, 0x1031,
}  # fmt: skip
MOST_BYTES = 1024
"""No request of these two can be longer."""

LONGEST_RESPONSE_BYTES = 4096
"""Far more than a C-STORE-RSP with comments and lists of offending elements has."""

ELEMENT = struct.Struct("<HHL")
LONGEST_UID = 64
_valid_uid = re.compile(RE_VALID_UID).fullmatch


@dataclass(frozen=True)
class Request:
    """A C-STORE-RQ or C-ECHO-RQ that is whole and holds together."""

    command_field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str = ""
    move_originator: str = ""
    """Move Originator Application Entity Title (0000,1030)."""


@dataclass(frozen=True)
class StoreResponse:
    """A C-STORE-RSP: the message that it answers, and how.

    What a peer may say in words, Error Comment (0000,0902), is left: it may name the patient.
    """

    responded_to: int
    status: int


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 section 9.3.1.1)."""
    return _encoded(
        [
            (SOP_CLASS_UID, _padded(sop_class_uid)),
            (COMMAND_FIELD, struct.pack("<H", C_STORE_RQ)),
            (MESSAGE_ID, struct.pack("<H", message_id)),
            (PRIORITY, struct.pack("<H", MEDIUM)),
            (DATA_SET_TYPE, struct.pack("<H", A_DATA_SET)),
            (SOP_INSTANCE_UID, _padded(sop_instance_uid)),
        ]
    )


def read_store_response(encoded: bytes) -> StoreResponse | None:
    """The response that a command set is; None for any that is none, or announces a data set."""
    elements = _elements(encoded, strict=False) if len(encoded) <= LONGEST_RESPONSE_BYTES else None
    if elements is None or _number(elements, COMMAND_FIELD) != C_STORE_RQ | RESPONSE:
        return None
    responded_to, status = _number(elements, RESPONDED_TO), _number(elements, STATUS)
    if responded_to is None or status is None:
        return None
    if _number(elements, DATA_SET_TYPE) not in (None, NO_DATA_SET):
        return None
    return StoreResponse(responded_to, status)


def read_request(encoded: bytes) -> Request | None:
    """The request that a command set is; None for any that is not plainly one of the two."""
    elements = _elements(encoded, strict=True) if len(encoded) <= MOST_BYTES else None
    if elements is None:
        return None
    field, message_id = _number(elements, COMMAND_FIELD), _number(elements, MESSAGE_ID)
    data_set_type = _number(elements, DATA_SET_TYPE)
    sop_class_uid = _text(elements, SOP_CLASS_UID)
    if message_id is None or data_set_type is None or not _is_valid(sop_class_uid):
        return None
    if field == C_ECHO_RQ and data_set_type == NO_DATA_SET:
        return Request(field, message_id, sop_class_uid)
    sop_instance_uid = _text(elements, SOP_INSTANCE_UID)
    is_store = field == C_STORE_RQ and data_set_type != NO_DATA_SET and PRIORITY in elements
    if not is_store or not _is_valid(sop_instance_uid):
        return None
    return Request(
        C_STORE_RQ, message_id, sop_class_uid, sop_instance_uid, _text(elements, MOVE_ORIGINATOR).strip()
    )


def response(request: Request, status: int) -> bytes:
    """The command set that answers a request."""
    elements = [
        (SOP_CLASS_UID, _padded(request.sop_class_uid)),
        (COMMAND_FIELD, struct.pack("<H", request.command_field | RESPONSE)),
        (RESPONDED_TO, struct.pack("<H", request.message_id)),
        (DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (STATUS, struct.pack("<H", status)),
    ]
    if request.sop_instance_uid:
        elements.append((SOP_INSTANCE_UID, _padded(request.sop_instance_uid)))
    return _encoded(elements)


def _encoded(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """The elements behind their group length (PS3.7 section 6.3.1)."""
    content = b"".join(ELEMENT.pack(0, element, len(value)) + value for element, value in elements)
    return ELEMENT.pack(0, COMMAND_GROUP, 4) + struct.pack("<L", len(content)) + content


def _elements(encoded: bytes, *, strict: bool) -> dict[int, bytes] | None:
    """Values by element number; None unless the elements are of group 0000 and fill the set.

    When `strict`, they must also be known and in rising order.
    """
    elements: dict[int, bytes] = {}
    at, before = 0, -1
    while at + ELEMENT.size <= len(encoded):
        group, element, length = ELEMENT.unpack_from(encoded, at)
        at += ELEMENT.size
        if group != 0 or at + length > len(encoded):
            return None
        if strict and (element <= before or element not in KNOWN):
            return None
        elements[element] = encoded[at : at + length]
        at, before = at + length, element
    return elements if at == len(encoded) else None


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _text(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("latin-1").rstrip("\0 ")


def _is_valid(uid: str) -> bool:
    """As pydicom's `UID.is_valid`, without making a UID."""
    return len(uid) <= LONGEST_UID and _valid_uid(uid) is not None


def _padded(uid: str) -> bytes:
    encoded = uid.encode("ascii")
    return encoded + b"\0" * (len(encoded) % 2)
