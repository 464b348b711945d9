"""A node goes from SQLite to PostgreSQL with all that it knows, or stays where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake, Outcome
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import Fact, append, verify_chain
from dicomnode.records.db import Database, migrate, utc_now
from dicomnode.records.tables import AuditRow, Base
from dicomnode.settings.database import DATABASE_URL
from dicomnode.spool import Spool
from tests.bench.large_node import fill
from tests.dicomnode.console import Command
from tests.dicomnode.parts import arrival, events, image, write_config
from tests.dicomnode.tampering import tamper
from tests.postgres import Cluster

STUDIES = 30


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node on SQLite with something in every table that matters."""
    path = write_config(tmp_path)
    database = Database(load_settings(path).database_url)
    migrate(database)
    fill(database, STUDIES)
    database.engine.dispose()
    return path


@pytest.fixture
def to_postgresql(
    cluster: Cluster, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Says that the node is on PostgreSQL from now on."""
    return lambda: monkeypatch.setenv(DATABASE_URL, cluster.url(new_database()))


def database_of(config: Path) -> Database:
    return Database(load_settings(config).database_url)


def counts(database: Database) -> dict[str, int]:
    with database.snapshot() as session:
        tables = Base.metadata.sorted_tables
        return {t.name: session.scalar(select(func.count()).select_from(t)) or 0 for t in tables}


def test_everything_is_there_afterwards_and_the_node_goes_on(
    config: Path, to_postgresql: Callable[[], None]
) -> None:
    before = database_of(config)
    told = counts(before)
    with before.snapshot() as session:
        rows = [dict(row) for row in session.execute(select(AuditRow.__table__)).mappings()]
    before.engine.dispose()
    to_postgresql()
    said = " ".join(Command(config)("move-database").split())
    assert f"{20 * STUDIES} events, unbroken on both sides" in said

    after = database_of(config)
    assert after.engine.dialect.name == "postgresql"
    assert counts(after) == told | {"audit_events": 20 * STUDIES + 1}
    with after.snapshot() as session:
        moved = [dict(row) for row in session.execute(select(AuditRow.__table__)).mappings()]
    assert moved[:-1] == rows
    assert moved[-1]["event"] == "database_moved"
    assert moved[-1]["detail"]["counts"]["studies"] == STUDIES

    spool = Spool(load_settings(config).spool)
    spool.prepare()
    assert Intake(spool, after, Audit("receiver")).take(arrival(image())) is Outcome.NEW  # its number is new
    with after.snapshot() as session:
        assert verify_chain(session).faults == ()
    data = load_settings(config).node.data
    assert sorted(path.name for path in data.glob("node.sqlite*")) == ["node.sqlite.moved"]


def test_a_broken_trail_is_not_moved(config: Path, to_postgresql: Callable[[], None]) -> None:
    before = database_of(config)
    tamper(before, "UPDATE audit_events SET actor = 'nobody' WHERE id = 7")
    before.engine.dispose()
    to_postgresql()
    with pytest.raises(PermanentError, match="event 7"):
        Command(config)("move-database")
    _nothing_was_moved(config)


def test_what_does_not_arrive_as_it_was_is_not_moved(config: Path, to_postgresql: Callable[[], None]) -> None:
    """An old trail may hold NUL, which PostgreSQL cannot keep."""
    before = database_of(config)
    with before.transaction() as session:
        append(session, Fact(utc_now(), "job_replayed", "x", None, None, None, None, {"destination": "A\0"}))
    before.engine.dispose()
    to_postgresql()
    with pytest.raises(PermanentError, match="nothing was moved"):
        Command(config)("move-database")
    _nothing_was_moved(config)


def test_a_database_that_is_not_empty_is_left_alone(config: Path, to_postgresql: Callable[[], None]) -> None:
    to_postgresql()
    target = database_of(config)
    with target.transaction() as session:
        Audit("other").record(session, Event.JOB_REPLAYED, Subject())
    with pytest.raises(PermanentError, match="not empty"):
        Command(config)("move-database")
    assert [event for event, _ in events(target)] == ["job_replayed"]
    assert (load_settings(config).node.data / "node.sqlite").exists()


def test_without_a_new_place_or_an_old_one_there_is_nothing_to_do(
    config: Path, to_postgresql: Callable[[], None]
) -> None:
    with pytest.raises(PermanentError, match="nowhere to move to"):
        Command(config)("move-database")
    to_postgresql()
    Command(config)("move-database")
    with pytest.raises(PermanentError, match="nothing to move"):
        Command(config)("move-database")


def _nothing_was_moved(config: Path) -> None:
    after = database_of(config)
    assert set(counts(after).values()) == {0}
    assert (load_settings(config).node.data / "node.sqlite").exists()
    after.engine.dispose()
