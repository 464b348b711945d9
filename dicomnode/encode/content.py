"""Walks the content tree of a structured report that was read back (PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sr.coding import Code

from dicomnode.plain_values import tag_and_vr
from dicomnode.study import text

CodeKey = tuple[str, str]
"""Code value and coding scheme; the meaning is for people."""


def key(code: Code) -> CodeKey:
    """What two equal codes have in common."""
    return str(code.value), str(code.scheme_designator)


def code_in(item: Dataset, sequence: str) -> CodeKey:
    """The code in a sequence attribute; two empty strings when there is none."""
    raw = item.get_item(tag_and_vr(sequence)[0])
    if isinstance(raw, RawDataElement) and raw.value:
        found = _decoded(raw.value, raw.is_implicit_VR, raw.is_little_endian)
        if "".join(found).isascii() and "".join(found).isprintable():  # the same in every character set
            return found
    return _first(item, sequence)


@lru_cache(maxsize=4096)
def _decoded(content: bytes, implicit: bool, little_endian: bool) -> CodeKey:
    """The code in the bytes of a sequence: a report has the same ones hundreds of times."""
    tag, vr = tag_and_vr("ConceptCodeSequence")
    raw = RawDataElement(tag, vr, len(content), content, 0, implicit, little_endian)
    return _first(Dataset({tag: raw}), "ConceptCodeSequence")


def _first(item: Dataset, sequence: str) -> CodeKey:
    found = item.get(sequence)
    if not found:
        return "", ""
    return text(found[0], "CodeValue"), text(found[0], "CodingSchemeDesignator")


def name_of(item: Dataset) -> CodeKey:
    """Concept name of a content item."""
    return code_in(item, "ConceptNameCodeSequence")


def children(item: Dataset, concept: Code | None = None) -> list[Dataset]:
    """Content items directly below `item`, of one concept name when it is given."""
    found = item.get("ContentSequence") or ()
    return [child for child in found if concept is None or name_of(child) == key(concept)]


def walk(item: Dataset) -> Iterator[Dataset]:
    """All content items below `item`, parents first."""
    for child in children(item):
        yield child
        yield from walk(child)


def child(item: Dataset, concept: Code) -> Dataset | None:
    """The first content item of a concept directly below `item`."""
    found = children(item, concept)
    return found[0] if found else None
