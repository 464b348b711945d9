"""Events of the trail as CSV, JSON lines, XML and FHIR AuditEvents (R4), one after the other."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from io import StringIO
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from dicomnode.export.fhir import audit_event
from dicomnode.records.queries import event_record
from dicomnode.records.story import sentence_of
from dicomnode.records.tables import AuditRow
from dicomnode.show.plain import plain


class Format(StrEnum):
    """What an export looks like."""

    CSV = "csv"
    JSONL = "jsonl"
    """One JSON object a line."""
    XML = "xml"
    FHIR = "fhir"
    """One AuditEvent (R4, JSON) a line."""


FORMULA = ("=", "+", "-", "@")
"""How cells begin that a spreadsheet would compute."""


def harmless_cell(value: object) -> str:
    """A CSV cell that a spreadsheet shows and does not compute: an apostrophe stands before a formula."""
    text = plain("" if value is None else value)
    return f"'{text}" if text.startswith(FORMULA) else text


def lines(rows: Iterable[AuditRow], form: Format) -> Iterator[str]:
    """The lines of an export, with what comes before and after the events."""
    yield from _FORMATS[form](rows)


def _csv(rows: Iterable[AuditRow]) -> Iterator[str]:
    yield _cells([*(column.name for column in AuditRow.__table__.columns), "what"])
    for row in rows:
        record = event_record(row)
        record["at"] = row.at.isoformat()
        record["detail"] = json.dumps(row.detail, sort_keys=True)
        yield _cells([*record.values(), sentence_of(row)])


def _cells(values: Iterable[object]) -> str:
    line = StringIO()
    csv.writer(line, lineterminator="\n").writerow([harmless_cell(value) for value in values])
    return line.getvalue()


def _jsonl(rows: Iterable[AuditRow]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(event_record(row) | {"at": row.at.isoformat()}, sort_keys=True) + "\n"


def _xml(rows: Iterable[AuditRow]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<AuditTrail>\n'
    for row in rows:
        event = Element("Event")
        for key, value in event_record(row).items():
            if key not in ("at", "detail") and value is not None:
                event.set(key, plain(value))
        event.set("at", row.at.isoformat())
        for key, value in row.detail.items():
            SubElement(event, "Detail", name=plain(key)).text = plain(_word(value))
        yield tostring(event, encoding="unicode") + "\n"
    yield "</AuditTrail>\n"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _fhir(rows: Iterable[AuditRow]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(audit_event(row), sort_keys=True) + "\n"


_FORMATS: dict[Format, Callable[[Iterable[AuditRow]], Iterator[str]]] = {
    Format.CSV: _csv,
    Format.JSONL: _jsonl,
    Format.XML: _xml,
    Format.FHIR: _fhir,
}
