"""The database that pages are measured on is one that a node could have: whole, sealed, and open to more."""

from __future__ import annotations

import pytest
from sqlalchemy import func, inspect, select

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow, DeliveryRow, JobRow
from tests.bench.large_node import EVENTS_PER_STUDY, KINDS, fill, study_uid

STUDIES = 40
pytestmark = pytest.mark.both_databases


def _indexes(database: Database) -> set[tuple[str, str]]:
    inspector = inspect(database.engine)
    return {
        (table, str(index["name"]))
        for table in inspector.get_table_names()
        for index in inspector.get_indexes(table)
    }


def test_a_filled_database_has_every_row_and_index_and_its_trail_goes_on(database: Database) -> None:
    before = _indexes(database)
    fill(database, STUDIES)
    with database.transaction() as session:
        job = session.get_one(JobRow, STUDIES)
        session.add(JobRow(**_values(job) | {"id": None, "input_digest": "another"}))
        Audit("admin").record(session, Event.STUDY_REPLAYED, Subject(study_uid(0)))
    with database.snapshot() as session:
        counts = [session.scalar(select(func.count()).select_from(row)) for row in (JobRow, DeliveryRow)]
        assert counts == [STUDIES + 1, STUDIES * len(KINDS)]
        assert session.get_one(AuditRow, 1).peer == "PACS"
        check = verify_chain(session)
    assert (check.event_count, check.faults) == (STUDIES * EVENTS_PER_STUDY + 1, ())
    assert _indexes(database) == before


def _values(job: JobRow) -> dict[str, object]:
    return {column.name: getattr(job, column.name) for column in JobRow.__table__.columns}
