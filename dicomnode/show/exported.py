"""Audit events as files: CSV for a spreadsheet, JSON lines for a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from dicomnode.records.audit import Event
from dicomnode.records.queries import event_record
from dicomnode.records.story import SENTENCES
from dicomnode.records.tables import AuditRow
from dicomnode.show.plain import plain

COLUMNS = (
    "id",
    "at",
    "event",
    "actor",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "job_id",
    "what",
    "detail",
    "previous_sha256",
    "sha256",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula, and runs it."""


def as_csv(rows: Iterable[AuditRow]) -> Iterator[str]:
    """A head and one line for each event. No cell begins like a formula."""
    yield _line(COLUMNS)
    for row in rows:
        record = event_record(row) | {
            "at": row.at.isoformat(),
            "what": SENTENCES[Event(row.event)](row.detail),
            "detail": json.dumps(row.detail, sort_keys=True),
        }
        yield _line(["" if record[name] is None else _cell(record[name]) for name in COLUMNS])


def as_json_lines(rows: Iterable[AuditRow]) -> Iterator[str]:
    """One JSON object for each event, with all of its columns."""
    for row in rows:
        yield json.dumps(event_record(row) | {"at": row.at.isoformat()}, sort_keys=True) + "\n"


def _cell(value: Any) -> str:
    text = plain(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue()
