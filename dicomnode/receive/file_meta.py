"""What stands before a data set in its file: preamble, prefix, file meta information (PS3.10 section 7.1)."""

from __future__ import annotations

import struct
from functools import lru_cache

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

PREAMBLE = bytes(128) + b"DICM"
GROUP = 0x0002
LONG_VRS = ("OB",)
MOST_KEPT = 64


def file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Everything that goes before the data set."""
    before, behind = _shared(sop_class_uid, transfer_syntax_uid)
    content = before + _element(0x0003, "UI", sop_instance_uid.encode("ascii")) + behind
    return PREAMBLE + _element(0x0000, "UL", struct.pack("<L", len(content))) + content


@lru_cache(MOST_KEPT)
def _shared(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """What goes before and behind the SOP Instance UID: the same for all images of a series."""
    return (
        _element(0x0001, "OB", b"\0\1") + _element(0x0002, "UI", sop_class_uid.encode("ascii")),
        _element(0x0010, "UI", transfer_syntax_uid.encode("ascii"))
        + _element(0x0012, "UI", str(PYNETDICOM_IMPLEMENTATION_UID).encode("ascii"))
        + _element(0x0013, "SH", str(PYNETDICOM_IMPLEMENTATION_VERSION).encode("ascii")),
    )


def _element(element: int, vr: str, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian, its value padded to even length (PS3.5 section 7.1.2)."""
    if len(value) % 2:
        value += b" " if vr == "SH" else b"\0"
    if vr in LONG_VRS:
        return struct.pack("<HH2sxxL", GROUP, element, vr.encode("ascii"), len(value)) + value
    return struct.pack("<HH2sH", GROUP, element, vr.encode("ascii"), len(value)) + value
