"""What stands before a data set in its file: preamble, prefix, file meta information (PS3.10 section 7.1)."""

from __future__ import annotations

import struct

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

PREAMBLE = bytes(128) + b"DICM"
GROUP = 0x0002
LONG_VRS = ("OB",)


def file_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Everything that goes before the data set."""
    content = b"".join(
        (
            _element(0x0001, "OB", b"\0\1"),
            _element(0x0002, "UI", sop_class_uid.encode("ascii")),
            _element(0x0003, "UI", sop_instance_uid.encode("ascii")),
            _element(0x0010, "UI", transfer_syntax_uid.encode("ascii")),
            _element(0x0012, "UI", str(PYNETDICOM_IMPLEMENTATION_UID).encode("ascii")),
            _element(0x0013, "SH", str(PYNETDICOM_IMPLEMENTATION_VERSION).encode("ascii")),
        )
    )
    return PREAMBLE + _element(0x0000, "UL", struct.pack("<L", len(content))) + content


def _element(element: int, vr: str, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian, its value padded to even length (PS3.5 section 7.1.2)."""
    if len(value) % 2:
        value += b" " if vr == "SH" else b"\0"
    if vr in LONG_VRS:
        return struct.pack("<HH2sxxL", GROUP, element, vr.encode("ascii"), len(value)) + value
    return struct.pack("<HH2sH", GROUP, element, vr.encode("ascii"), len(value)) + value
