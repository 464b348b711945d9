"""Items of sequences as bytes in Explicit VR Little Endian (PS3.5 section 7.5), as pydicom writes them.

pydicom 3.0.2 writes every element of every item by way of a file of its own, and looks for ambiguous value
representations in each; segmentations and reports consist of thousands of small items.
"""

from __future__ import annotations

import struct
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

ITEM = b"\xfe\xff\x00\xe0"
LONGEST_SHORT_VALUE_BYTES = 0xFFFF
UNDEFINED = 0xFFFFFFFF
LONG_LENGTH = frozenset(str(vr) for vr in EXPLICIT_VR_LENGTH_32)
TEXT = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
DIGITS = frozenset({"DS", "IS"})
NUMBERS = {"FD": "d", "FL": "f", "SL": "l", "SS": "h", "UL": "L", "US": "H"}


class Unusual(Exception):
    """These items are for pydicom to write."""


class ItemWriter:
    """Writes the items of one object; an item that stands in several places is encoded once."""

    def __init__(self) -> None:
        self._written: dict[int, bytes] = {}

    def sequence(self, items: Any) -> bytes:
        """The value of a sequence. Raises Unusual for what is not written here."""
        return b"".join(map(self._item, items))

    def _item(self, item: Dataset) -> bytes:
        found = self._written.get(id(item))
        if found is None:
            if getattr(item, "is_undefined_length_sequence_item", False):
                raise Unusual("an item without a length")
            elements = sorted(item._dict.items(), key=_number)
            content = b"".join([self._element(int(tag), element, item) for tag, element in elements])
            found = self._written[id(item)] = ITEM + struct.pack("<L", len(content)) + content
        return found

    def _element(self, tag: int, element: Any, item: Dataset) -> bytes:
        vr, value = str(element.VR), element.value
        if isinstance(element, RawDataElement):
            content = _as_read(element, item)
        elif element.is_undefined_length:
            raise Unusual("a sequence without a length")
        elif vr == "SQ":
            content = self.sequence(value)
        elif value is None:
            content = b""
        elif vr in TEXT and isinstance(value, str | MultiValue | list):
            content = _text(value, vr)
        elif vr in NUMBERS:
            many = isinstance(value, MultiValue | list)
            content = struct.pack(f"<{len(value) if many else 1}{NUMBERS[vr]}", *(value if many else [value]))
        elif vr in DIGITS:
            content = _digits(value)
        else:
            return _by_pydicom(element)
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))
        if vr in LONG_LENGTH:
            return head + struct.pack("<xxL", len(content)) + content
        if len(content) > LONGEST_SHORT_VALUE_BYTES:
            raise Unusual("a value too long for its representation")
        return head + struct.pack("<H", len(content)) + content


def _number(element: tuple[int, Any]) -> int:
    """The tag as a plain number: pydicom's own compare slowly."""
    return int(element[0])


def _as_read(element: RawDataElement, item: Dataset) -> bytes:
    """The value of an element that nobody has looked at, where it was read in this encoding."""
    same_text = item.original_character_set == item._character_set
    if item.original_encoding != (False, True) or not same_text or element.length == UNDEFINED:
        raise Unusual("an element in another encoding")
    return element.value or b""


def _text(value: Any, vr: str) -> bytes:
    text: str = value if isinstance(value, str) else "\\".join(value)
    if not text.isascii():
        raise Unusual("text that depends on a character set")
    padding = "" if len(text) % 2 == 0 else "\0" if vr == "UI" else " "
    return (text + padding).encode("ascii")


def _digits(value: Any) -> bytes:
    """Numbers as they were first written (PS3.5 section 6.2, DS and IS)."""
    if value == "":
        return b""
    values = value if isinstance(value, MultiValue | list) else [value]
    joined = "\\".join(getattr(one, "original_string", None) or str(one) for one in values)
    return (joined + " " * (len(joined) % 2)).encode("ascii")


def _by_pydicom(element: DataElement) -> bytes:
    if len(element.VR) != 2:
        raise Unusual("an ambiguous value representation")
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element)
    return buffer.getvalue()
