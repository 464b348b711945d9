"""Finds the elements at the top of a data set without decoding what is in them (PS3.5 section 7).

Either the result is what pydicom would find, or there is none: whatever is unusual (another byte order, a
VR that does not exist, tags out of order, lengths beyond the end) is left to pydicom.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

Content = bytes | bytearray | memoryview
Element = tuple[str | None, int, int]
"""VR, where the encoding names it; start of the value; its length in bytes: of a sequence of undefined length
up to behind its end."""

SPECIFIC_CHARACTER_SET = 0x00080005
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
FILE_META_TAGS = range(0x00020000, 0x00030000)
DATA_SET_TAGS = range(0x00080000, PIXEL_TAGS[-1] + 1)
"""Up to the pixel data. File meta information and command elements have no business in a data set."""
FILE_META_START = 132
"""Behind preamble and prefix (PS3.10 section 7.1)."""
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
LONGEST_HEADER_BYTES = 2**20
"""Longer ones are left to pydicom: so time and memory are bounded, whatever a header claims."""
DEEPEST_NESTING = 16
ASCII_SUPERSETS = (b"", b"ISO_IR 6", b"ISO_IR 100", b"ISO_IR 192")
"""Character sets in which plain ASCII bytes mean themselves, and no escape sequence can follow."""

_VRS = {
    vr.encode(): (str(vr), vr in EXPLICIT_VR_LENGTH_32)
    for vr in EXPLICIT_VR_LENGTH_16 | EXPLICIT_VR_LENGTH_32
}
"""Name of each VR, and whether its length has 4 bytes."""
_explicit_header = struct.Struct("<HH2sH").unpack_from
_implicit_header = struct.Struct("<HHI").unpack_from
_long_length = struct.Struct("<I").unpack_from


Places = tuple[tuple[str | None, slice] | None, ...]
"""Of several values: VR, where the encoding names it, and place; None for one that is absent."""


@dataclass(frozen=True)
class Found:
    """Elements by tag, and where they end: at the pixel data where there are some."""

    elements: dict[int, Element]
    end: int
    _places: dict[tuple[int, ...], Places] = field(default_factory=dict, init=False, compare=False)

    def places(self, tags: tuple[int, ...]) -> Places:
        """Where some values lie; looked up once for all headers with this layout."""
        known = self._places.get(tags)
        if known is None:
            known = tuple(map(self._place, tags))
            self._places[tags] = known
        return known

    def _place(self, tag: int) -> tuple[str | None, slice] | None:
        element = self.elements.get(tag)
        if element is None:
            return None
        vr, start, length = element
        return vr, slice(start, start + length)


class PixelPlace(NamedTuple):
    """Where in a file the value of Pixel Data (7FE0,0010) lies, not encapsulated."""

    start: int
    length_bytes: int


class Unsure(Exception):
    """This is for pydicom to judge."""


def find_elements(content: Content, start: int, *, explicit: bool, whole: bool = True) -> Found | None:
    """Every element by its tag from `start` to the pixel data, or None where this is for pydicom to judge.

    Little endian. Without `whole` the content is the beginning of something longer, and the elements
    before the pixel data must all lie in it.
    """
    try:
        if not explicit and _looks_explicit(content, start):
            return None
        limit = min(len(content), start + LONGEST_HEADER_BYTES)
        found = _top_level(content, start, limit, explicit, DATA_SET_TAGS)
    except (Unsure, struct.error, KeyError):
        return None
    complete = found.end < limit or (whole and found.end == len(content))
    if not found.elements or not complete:
        return None
    return found if _is_plain(content, found.elements.get(SPECIFIC_CHARACTER_SET)) else None


def pixel_place(content: Content, at: int, *, explicit: bool) -> PixelPlace | None:
    """What the element at `at` says of its place; None where it is not Pixel Data in native form."""
    try:
        tag, vr, start, length = (_explicit_header_at if explicit else _implicit_header_at)(content, at)
    except (struct.error, KeyError):
        return None
    native = tag == PIXEL_TAGS[-1] and vr in (None, "OB", "OW") and length != UNDEFINED
    return PixelPlace(start, length) if native else None


def find_file_meta(content: Content) -> Found | None:
    """The file meta information of a file and where its data set begins; None is for pydicom to judge."""
    try:
        if content[128:FILE_META_START] != b"DICM":
            return None
        end = FILE_META_START + 12 + _long_length(content, FILE_META_START + 8)[0]
        found = _top_level(content, FILE_META_START, end, True, FILE_META_TAGS)
        following, _, _ = _implicit_header(content, end)
    except (Unsure, struct.error, KeyError):
        return None
    return found if found.end == end and following >= DATA_SET_TAGS.start >> 16 else None


def _top_level(content: Content, at: int, end: int, explicit: bool, allowed: range) -> Found:
    """The elements before `end` or the pixel data, and where they end."""
    found: dict[int, Element] = {}
    least, most = allowed.start, allowed.stop
    header_at = _explicit_header_at if explicit else _implicit_header_at
    while at < end:
        tag, vr, start, length = header_at(content, at)
        if not least <= tag < most:
            raise Unsure
        if tag >= PIXEL_TAGS[0] and tag in PIXEL_TAGS:
            break
        at = start + length if length != UNDEFINED else _after_items(content, tag, vr, start, end, 0)
        found[tag] = vr, start, at - start
        least = tag + 1
    if at > end:
        raise Unsure
    return Found(found, at)


def _looks_explicit(content: Content, at: int) -> bool:
    """pydicom takes two capital letters behind the first tag for a VR, whatever the transfer syntax."""
    return all(0x40 < byte < 0x5B for byte in content[at + 4 : at + 6])


def _explicit_header_at(content: Content, at: int) -> tuple[int, str | None, int, int]:
    """Tag, VR, start and length of the value of the element at `at`."""
    group, number, encoded_vr, length = _explicit_header(content, at)
    vr, has_long_length = _VRS[encoded_vr]
    if has_long_length:
        return group << 16 | number, vr, at + 12, _long_length(content, at + 8)[0]
    return group << 16 | number, vr, at + 8, length


def _implicit_header_at(content: Content, at: int) -> tuple[int, str | None, int, int]:
    group, number, length = _implicit_header(content, at)
    return group << 16 | number, None, at + 8, length


def _after_items(content: Content, tag: int, vr: str | None, at: int, end: int, depth: int) -> int:
    """Behind the delimiter of a sequence of undefined length (PS3.5 section 7.5.2).

    pydicom parses such a sequence at once, so everything in it must be as it should be.
    """
    if (vr or dictionary_VR(tag)) != "SQ" or depth > DEEPEST_NESTING:
        raise Unsure
    explicit = vr is not None
    while True:
        group, number, length = _implicit_header(content, at)
        item, at = group << 16 | number, at + 8
        if item == SEQUENCE_END and length == 0:
            return at
        if item != ITEM:
            raise Unsure
        at = _after_item(content, at, end, length, explicit, depth)


def _after_item(content: Content, at: int, end: int, length: int, explicit: bool, depth: int) -> int:
    header_at = _explicit_header_at if explicit else _implicit_header_at
    limit = end if length == UNDEFINED else at + length
    if limit > end:
        raise Unsure
    while at < limit:
        group, number, delimiter_length = _implicit_header(content, at)
        if group == ITEM_END >> 16:
            if length != UNDEFINED or group << 16 | number != ITEM_END or delimiter_length:
                raise Unsure
            return at + 8
        tag, vr, start, value_length = header_at(content, at)
        if value_length == UNDEFINED:
            at = _after_items(content, tag, vr, start, limit, depth + 1)
        else:
            at = start + value_length
        if tag == SPECIFIC_CHARACTER_SET and not _is_plain(content, (vr, start, at - start)):
            raise Unsure
    if at != limit or length == UNDEFINED:
        raise Unsure
    return at


def _is_plain(content: Content, character_set: Element | None) -> bool:
    if character_set is None:
        return True
    vr, start, length = character_set
    value = bytes(content[start : start + length]) if length <= 32 else b"\\"
    return vr in (None, "CS") and value.rstrip(b" ") in ASCII_SUPERSETS
