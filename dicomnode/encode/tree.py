"""Content items of structured reports (PS3.3 section C.17.3) as plain data sets.

highdicom 0.28.2 takes most of a millisecond for each, for checks that a report gets anyway when it is read
back; a report on twenty lesions has two thousand. These are the same, element by element.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from dicomnode.encode.concepts import SOURCE
from dicomnode.encode.coordinates import Points
from dicomnode.encode.sources import ImageReference
from dicomnode.plain_values import tag_and_vr

Relationship = Literal[
    "CONTAINS", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "INFERRED FROM", "SELECTED FROM"
]
LONGEST_SHORT_CODE = 16
"""Code Value (0008,0100) holds no more."""


def container(
    name: Code,
    content: Iterable[Dataset] = (),
    relationship: Relationship | None = "CONTAINS",
    template: str = "",
) -> Dataset:
    """A CONTAINER; `template` is the identifier of what it is made by in PS3.16."""
    extra: dict[str, Any] = {}
    if template:
        extra["ContentTemplateSequence"] = [plain(MappingResource="DCMR", TemplateIdentifier=template)]
    return _item("CONTAINER", name, relationship, content, ContinuityOfContent="CONTINUOUS", **extra)


def code_item(name: Code, value: Code, relationship: Relationship) -> Dataset:
    """A CODE."""
    return _item("CODE", name, relationship, ConceptCodeSequence=[coded(value)])


def text_item(name: Code, words: str, relationship: Relationship) -> Dataset:
    """A TEXT."""
    return _item("TEXT", name, relationship, TextValue=words)


def uid_item(name: Code, uid: str, relationship: Relationship) -> Dataset:
    """A UIDREF."""
    return _item("UIDREF", name, relationship, UID=uid)


def number_item(
    name: Code,
    value: float,
    unit: Code,
    relationship: Relationship = "CONTAINS",
    content: Iterable[Dataset] = (),
) -> Dataset:
    """A NUM: as decimal string and, where it is no whole number by its type, as floating point too."""
    measured: dict[str, Any] = {
        "NumericValue": DS(value, auto_format=True), "MeasurementUnitsCodeSequence": [coded(unit)]
    }  # fmt: skip
    if isinstance(value, float):
        measured["FloatingPointValue"] = value
    return _item("NUM", name, relationship, content, MeasuredValueSequence=[plain(**measured)])


def image_item(
    name: Code,
    image: ImageReference,
    relationship: Relationship,
    content: Iterable[Dataset] = (),
    segment: int | None = None,
) -> Dataset:
    """An IMAGE: one instance, and of it a frame or a segment where it is given."""
    reference: dict[str, Any] = {
        "ReferencedSOPClassUID": image.sop_class_uid, "ReferencedSOPInstanceUID": image.sop_instance_uid
    }  # fmt: skip
    if image.frame_number is not None:
        reference["ReferencedFrameNumber"] = image.frame_number
    if segment is not None:
        reference["ReferencedSegmentNumber"] = segment
    return _item("IMAGE", name, relationship, content, ReferencedSOPSequence=[plain(**reference)])


def polyline_item(name: Code, points: Points, image: ImageReference, relationship: Relationship) -> Dataset:
    """A SCOORD through (column, row) points of one image."""
    return _item(
        "SCOORD",
        name,
        relationship,
        [image_item(SOURCE, image, "SELECTED FROM")],
        GraphicType="POLYLINE",
        GraphicData=points.flatten().tolist(),
    )


def coded(code: Code) -> Dataset:
    """An item of a code sequence; the same one each time, so that it is written once. Not to be changed."""
    return _coded(code.value, code.scheme_designator, code.meaning)


@lru_cache(maxsize=1024)
def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    """By all three: pydicom counts codes as equal that differ in their meaning."""
    keyword = "CodeValue" if len(value) <= LONGEST_SHORT_CODE else "LongCodeValue"
    return plain(**{keyword: value}, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(
    value_type: str,
    name: Code,
    relationship: Relationship | None,
    content: Iterable[Dataset] = (),
    **elements: Any,
) -> Dataset:
    if relationship is not None:
        elements["RelationshipType"] = relationship
    below = list(content)
    if below:
        elements["ContentSequence"] = below
    return plain(ValueType=value_type, ConceptNameCodeSequence=[coded(name)], **elements)


def plain(**elements: Any) -> Dataset:
    """A data set of values that need no conversion: text without padding, numbers, lists of items."""
    return Dataset(dict(_element(keyword, value) for keyword, value in elements.items()))


def _element(keyword: str, value: Any) -> tuple[Any, DataElement]:
    tag, vr = tag_and_vr(keyword)
    found: Any = DicomSequence(value) if vr == "SQ" else value
    return tag, DataElement(tag, vr, found, already_converted=True)
