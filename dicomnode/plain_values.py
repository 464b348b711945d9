"""Decodes the values that nearly every header consists of: single words and decimal numbers in plain ASCII.

The same value as pydicom's, or None: then pydicom must decode it.
"""

from __future__ import annotations

import struct
from functools import cache, lru_cache

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

TEXT_VRS = ("CS", "UI", "LO", "SH")
DECIMAL_CHARACTERS = b"+-.0123456789eE\\ "
LONGEST_KEPT_BYTES = 128
"""Six direction cosines of sixteen characters have 101."""
MOST_KEPT_NUMBERS = 2048


def plain_text(value: bytes) -> str | None:
    """A single value of one of `TEXT_VRS`, without the padding behind."""
    if value.isascii() and b"\\" not in value and b"\x1b" not in value:
        return value.rstrip(b" \0").decode()
    return None


def plain_word(vr: str, value: bytes) -> str | None:
    """The same whatever the character set: codes, UIDs, and text of letters and digits only."""
    if vr in ("CS", "UI") or (vr in TEXT_VRS and value.rstrip(b" ").isalnum()):
        return plain_text(value)
    return None


def plain_numbers(vr: str, value: bytes) -> tuple[float, ...] | None:
    """The values of a decimal string (DS), or of unsigned numbers of 16 bits (US) in little endian.

    The slices of a series share most of them, so the latest short ones are kept.
    """
    return _kept_numbers(vr, value) if len(value) <= LONGEST_KEPT_BYTES else _numbers(vr, value)


def _numbers(vr: str, value: bytes) -> tuple[float, ...] | None:
    if vr == "DS" and not value.translate(None, DECIMAL_CHARACTERS):
        try:
            return tuple(map(float, value.split(b"\\")))
        except ValueError:
            return None
    if vr == "US" and value and len(value) % 2 == 0:
        return tuple(map(float, struct.unpack(f"<{len(value) // 2}H", value)))
    return None


_kept_numbers = lru_cache(MOST_KEPT_NUMBERS)(_numbers)


@cache
def number_and_vr(keyword: str) -> tuple[int, str]:
    """The same with a plain number for the tag: pydicom's kind is slow to compare."""
    tag, vr = tag_and_vr(keyword)
    return int(tag), vr


@cache
def tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    """Tag and VR of an attribute of the standard; raises KeyError for a keyword that is none."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"{keyword} is no attribute of the standard")
    return BaseTag(tag), dictionary_VR(tag)
