"""Everything about one study in one zip file: for an inquiry, or to be kept elsewhere."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Session

from dicomnode.export.formats import Format, lines
from dicomnode.records.audit import Event, Subject
from dicomnode.records.lookup import Hit, events_about
from dicomnode.records.story import sentence_of
from dicomnode.records.tables import (
    AuditRow,
    DecisionRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    ResultRow,
    StudyRow,
)
from dicomnode.records.timing import timings
from dicomnode.show.plain import plain


def write_everything(session: Session, hit: Hit, path: Path, objects: bool) -> dict[str, int]:
    """Write the zip file; returns how many of each thing are in it.

    Headers of results are always there, without pixels; whole objects, received and made, with `objects`.
    Raises FileExistsError when `path` is there, OSError when it cannot be written.
    """
    assert hit.study is not None
    uid = hit.study.study_instance_uid
    events = events_about(session, Hit(hit.named, hit.study, Subject(uid)))
    instances = _rows(session, InstanceRow, uid)
    jobs = _rows(session, JobRow, uid)
    results = _rows(session, ResultRow, uid)
    of_jobs = DeliveryRow.job_id.in_([job.id for job in jobs])
    tables: dict[str, Sequence[DeclarativeBase]] = {
        "study": [hit.study],
        "instances": instances,
        "decisions": _rows(session, DecisionRow, uid),
        "jobs": jobs,
        "results": results,
        "deliveries": session.scalars(select(DeliveryRow).where(of_jobs)).all(),
    }
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        for name, rows in tables.items():
            archive.writestr(f"{name}.json", _json([_record(row) for row in rows]))
        archive.writestr("events.jsonl", "".join(lines(events, Format.JSONL)))
        archive.writestr("story.txt", "".join(_told(row) for row in events))
        archive.writestr("timing_s.json", _json({job.job_id: job.steps() for job in timings(events)}))
        archive.writestr("configuration.json", _json(_starts(session, hit.study)))
        for result in results:
            archive.writestr(f"headers/{result.sop_instance_uid}.json", _header(Path(result.path)))
        if objects:
            _add_objects(archive, [*instances, *results])
    return {name: len(rows) for name, rows in tables.items()} | {"events": len(events)}


T = TypeVar("T", InstanceRow, DecisionRow, JobRow, ResultRow)


def _rows(session: Session, table: type[T], study_instance_uid: str) -> Sequence[T]:
    return session.scalars(select(table).where(table.study_instance_uid == study_instance_uid)).all()


def _record(row: DeclarativeBase) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str, sort_keys=True) + "\n"


def _told(row: AuditRow) -> str:
    return f"{row.at.isoformat()}  {plain(row.actor)}  {plain(sentence_of(row))}\n"


def _starts(session: Session, study: StudyRow) -> list[dict[str, Any]]:
    """The start of the node before the study came, and those since, with their digests."""
    starts = select(AuditRow).where(AuditRow.event == Event.NODE_STARTED.value)
    before = starts.where(AuditRow.at <= study.first_received_at).order_by(AuditRow.at.desc()).limit(1)
    after = starts.where(AuditRow.at > study.first_received_at).order_by(AuditRow.at).limit(20)
    rows = [*session.scalars(before), *session.scalars(after)]
    return [{"at": row.at, "event": row.id, **row.detail} for row in rows]


def _header(path: Path) -> str:
    """The attributes of a result without its pixels, or why there are none."""
    try:
        return dcmread(path, stop_before_pixels=True).to_json()
    except (OSError, InvalidDicomError) as error:
        return _json({"absent": f"{type(error).__name__}: the file is not kept any more, or cannot be read"})


def _add_objects(archive: zipfile.ZipFile, rows: list[InstanceRow | ResultRow]) -> None:
    """The files as they are kept; what is not kept any more is left out."""
    for row in rows:
        path = Path(row.path)
        folder = "results" if isinstance(row, ResultRow) else "instances"
        if path.exists():
            archive.write(path, f"{folder}/{path.name}")
