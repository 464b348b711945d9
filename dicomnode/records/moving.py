"""Moves all records from one database to another, which must be empty: everything, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, func, insert, select
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.records.anchors import read_anchors
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import ChainCheck, verify_chain
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import Base

CHUNK = 2000

Row = dict[str, Any]


@dataclass(frozen=True)
class Moved:
    """What was moved: rows by table, and the trail as it was found in its new place."""

    counts: dict[str, int]
    check: ChainCheck


def move_records(source: Database, target: Database, anchors: Path, audit: Audit) -> Moved:
    """Copy every table, prove that the new one holds the same unbroken trail, and record it there.

    The source is locked meanwhile, and is not changed but for its schema, which is brought up to date. Raises
    PermanentError when the trail is broken, the target is not empty, or something does not arrive as it was;
    the target holds nothing new then.
    """
    migrate(source)
    migrate(target)
    tables = Base.metadata.sorted_tables
    known = read_anchors(anchors)
    with target.snapshot() as session:
        _refuse_unless_empty(session, tables)  # found out soon, and decided below
    with source.transaction() as reading:
        before = verify_chain(reading, known)  # before the other transaction: the server ends idle ones
        if before.faults:
            raise PermanentError(f"the audit trail is broken, nothing was moved: {before.faults[0].told}")
        with target.transaction() as writing:
            _refuse_unless_empty(writing, tables)
            counts = _copy_all(reading, writing, tables)
            check = verify_chain(writing, known)
            if check.faults or _end_of(check) != _end_of(before):
                told = check.faults[0].told if check.faults else "it ends with another event"
                raise PermanentError(f"the trail did not arrive as it was, nothing was moved: {told}")
            _record(audit, writing, source, target, Moved(counts, check))
    return Moved(counts, check)


def _copy_all(reading: Session, writing: Session, tables: list[Table]) -> dict[str, int]:
    try:
        return {table.name: _copy(reading, writing, table) for table in tables}
    except DataError as error:
        raise PermanentError(
            f"a row cannot be kept in the new database, nothing was moved: {error.orig}"
        ) from error


def _record(audit: Audit, session: Session, source: Database, target: Database, moved: Moved) -> None:
    audit.record(
        session,
        Event.DATABASE_MOVED,
        Subject(),
        source=str(source.engine.url),
        target=str(target.engine.url.set(query={})),
        counts=moved.counts,
        event_count=moved.check.event_count,
        last_sha256=moved.check.last_sha256,
    )


def _refuse_unless_empty(session: Session, tables: list[Table]) -> None:
    for table in tables:
        if session.execute(select(table).limit(1)).first() is not None:
            raise PermanentError(
                f"the new database is not empty (table {table.name} has rows), nothing was moved; name "
                "another, or drop what is in it if nobody needs it"
            )


def _end_of(check: ChainCheck) -> tuple[int, int | None, str]:
    return check.event_count, check.last_id, check.last_sha256


def _copy(reading: Session, writing: Session, table: Table) -> int:
    """Copy one table; returns its number of rows, counted in the new place."""
    kept = [column for column in table.columns if column.computed is None]
    for chunk in _chunks(reading, table, kept):
        writing.execute(insert(table), chunk)
    counts = [session.scalar(select(func.count()).select_from(table)) or 0 for session in (reading, writing)]
    if counts[0] != counts[1]:
        raise PermanentError(
            f"table {table.name} has {counts[0]} rows, of which {counts[1]} arrived; nothing was moved"
        )
    _go_on_counting(writing, table)
    return counts[1]


def _chunks(session: Session, table: Table, columns: list[Any]) -> Iterator[list[Row]]:
    query = select(*columns).order_by(*table.primary_key.columns)
    for rows in session.execute(query, execution_options={"yield_per": CHUNK}).mappings().partitions():
        yield [dict(row) for row in rows]


def _go_on_counting(session: Session, table: Table) -> None:
    """Let PostgreSQL number new rows after the highest number of those that were moved."""
    column = table.autoincrement_column
    if column is None or session.get_bind().dialect.name != "postgresql":
        return
    sequence = func.pg_get_serial_sequence(table.name, column.name)
    highest = session.scalar(select(func.max(column)))
    if highest is not None and session.scalar(select(sequence)) is not None:
        session.execute(select(func.setval(sequence, highest)))
