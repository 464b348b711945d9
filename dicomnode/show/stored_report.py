"""The measurements of a result, read back from its stored reports (TID 1500)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import (
    COMMENT,
    FINDING,
    FINDING_SITE,
    LESION,
    LONG_AXIS,
    NOT_SEEN,
    QUALITATIVE_EVALUATIONS,
    SHORT_AXIS,
    TRACKING_IDENTIFIER,
    TRACKING_UID,
)
from dicomnode.encode.content import child, children, code_in, key
from dicomnode.encode.words import spoken
from dicomnode.study import text


@dataclass(frozen=True)
class Number:
    """One measured value with its unit, as people write it."""

    value: float
    unit: str


@dataclass(frozen=True)
class DrawnAxis:
    """A diameter on its image; ends are (row, column) indices."""

    sop_instance_uid: str
    frame_number: int | None
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass
class StoredLesion:
    """What the reports say of one lesion."""

    tracking_uid: str
    name: str
    finding: str = ""
    site: str = ""
    remark: str = ""
    numbers: dict[str, Number] = field(default_factory=dict)
    """By the meaning of the concept, such as "Long Axis"."""
    axes: list[DrawnAxis] = field(default_factory=list)
    """Long axis first."""

    seg_uid: str | None = None
    segment_number: int | None = None
    """Where it is outlined; a large result has several segmentations."""

    @property
    def number(self) -> int:
        """Number in its name ("Lesion 3"), 0 when there is none."""
        found = re.search(r"(\d+)$", self.name)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class StoredMeasurements:
    """All lesions of one result, and the sentences of its reports."""

    lesions: tuple[StoredLesion, ...]
    remarks: tuple[str, ...]
    says_none_seen: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The concepts that any lesion has a number for, in reading order."""
        found = dict.fromkeys(name for lesion in self.lesions for name in lesion.numbers)
        return tuple(found)


def read_measurements(reports: Iterable[Dataset]) -> StoredMeasurements:
    """Join what several reports of one result say of each lesion, by its tracking UID."""
    lesions: dict[str, StoredLesion] = {}
    remarks: dict[str, None] = {}
    none_seen = False
    for report in reports:
        for group in measurement_groups(report):
            uid = _text_of(group, TRACKING_UID, "UID")
            name = _text_of(group, TRACKING_IDENTIFIER, "TextValue").rsplit(":", 1)[-1]
            _read_group(group, lesions.setdefault(uid, StoredLesion(uid, name)))
        evaluations = child(report, QUALITATIVE_EVALUATIONS)
        if evaluations is not None:
            remarks |= dict.fromkeys(text(item, "TextValue") for item in children(evaluations, COMMENT))
            seen = child(evaluations, LESION)
            none_seen |= seen is not None and code_in(seen, "ConceptCodeSequence") == key(NOT_SEEN)
    ordered = sorted(lesions.values(), key=lambda lesion: lesion.number)
    return StoredMeasurements(tuple(ordered), tuple(remarks), none_seen)


def _read_group(group: Dataset, lesion: StoredLesion) -> None:
    lesion.finding = lesion.finding or _meaning_of(group, FINDING)
    lesion.site = lesion.site or _meaning_of(group, FINDING_SITE)
    lesion.remark = lesion.remark or _text_of(group, COMMENT, "TextValue")
    for item in children(group):
        if text(item, "ValueType") == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = text(measured.MeasurementUnitsCodeSequence[0], "CodeValue")
            name = text(item.ConceptNameCodeSequence[0], "CodeMeaning")
            lesion.numbers[name] = Number(float(measured.NumericValue), spoken(unit))
        elif text(item, "ValueType") == "IMAGE":
            segment = item.ReferencedSOPSequence[0]
            lesion.seg_uid = str(segment.ReferencedSOPInstanceUID)
            lesion.segment_number = int(segment.ReferencedSegmentNumber)
    for concept in (LONG_AXIS, SHORT_AXIS):
        lesion.axes += [axis for item in children(group, concept) for axis in _drawn(item)]


def _drawn(measurement: Dataset) -> list[DrawnAxis]:
    """Where a diameter lies: GraphicData are (column, row), 0.5 at the centre of the first pixel."""
    found = []
    for coordinates in children(measurement):
        if text(coordinates, "ValueType") != "SCOORD":
            continue
        image = children(coordinates)[0].ReferencedSOPSequence[0]
        frame = text(image, "ReferencedFrameNumber")
        column_1, row_1, column_2, row_2 = (float(value) - 0.5 for value in coordinates.GraphicData)
        found.append(
            DrawnAxis(
                str(image.ReferencedSOPInstanceUID),
                int(frame) if frame else None,
                (row_1, column_1),
                (row_2, column_2),
            )
        )
    return found


def _text_of(group: Dataset, concept: Code, keyword: str) -> str:
    item = child(group, concept)
    return "" if item is None else text(item, keyword)


def _meaning_of(group: Dataset, concept: Code) -> str:
    item = child(group, concept)
    return "" if item is None else text(item.ConceptCodeSequence[0], "CodeMeaning")
