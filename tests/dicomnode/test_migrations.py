"""The migrations make exactly the tables that the code speaks of, up and down."""

from __future__ import annotations

import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

import dicomnode.records.db
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, is_new, migrate
from dicomnode.records.engines import SQLITE_CONNECTIONS
from dicomnode.records.tables import Base
from dicomnode.settings.node import Settings


def downgrade(database: Database, revision: str = "base") -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(dicomnode.records.db.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@pytest.mark.both_databases
def test_the_migrations_make_exactly_the_schema_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


@pytest.mark.both_databases
def test_a_table_that_no_migration_makes_would_be_noticed(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE decisions"))
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata)


@pytest.mark.both_databases
def test_migrating_twice_is_harmless(database: Database) -> None:
    migrate(database)
    with database.snapshot() as session:
        assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 1


@pytest.mark.both_databases
def test_downgrading_leaves_nothing_and_upgrading_again_works(database: Database) -> None:
    downgrade(database)
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    migrate(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_database_is_readable_by_the_service_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "open to all"
    folder.mkdir(mode=0o755)
    database = Database(f"sqlite:///{folder}/node.sqlite")
    migrate(database)
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    database.engine.dispose()


def test_an_older_file_is_copied_before_it_is_migrated_and_three_copies_are_kept(
    settings: Settings, database: Database
) -> None:
    with database.transaction() as session:
        Audit("test").record(session, Event.NODE_STARTED, Subject(), ae_title="A", port=1, models={})
    folder = settings.node.data / "node.sqlite.before-migration"
    migrate(database)
    assert not folder.exists()  # there was nothing to migrate
    for _ in range(5):
        downgrade(database, "0001")
        migrate(database)
    copies = sorted(path.name for path in folder.iterdir())
    assert copies == [f"000{number}-revision-0001.sqlite" for number in (3, 4, 5)]
    copy = Database(f"sqlite:///{folder / copies[0]}")
    with copy.snapshot() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "0001"
        assert session.scalar(text("SELECT count(*) FROM audit_events")) == 1
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())


def test_a_new_file_is_not_copied(settings: Settings, database: Database) -> None:
    assert [path.name for path in settings.node.data.iterdir() if "before" in path.name] == []


def test_a_database_that_is_gone_is_not_replaced_and_works_when_it_is_back(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    migrate(database)
    database.engine.dispose()
    (tmp_path / "node.sqlite").rename(tmp_path / "away")
    with pytest.raises(OperationalError, match="unable to open"):
        is_new(database)
    assert not (tmp_path / "node.sqlite").exists()
    (tmp_path / "away").rename(tmp_path / "node.sqlite")
    assert not is_new(database)


def test_many_threads_at_once_leave_no_more_files_open_than_the_kept_connections_need(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    migrate(database)

    def read_and_write(_: int) -> None:
        with database.snapshot() as session:
            session.execute(text("SELECT count(*) FROM studies"))
        with database.transaction() as session:
            Audit("x").record(session, Event.NODE_STARTED, Subject())

    with ThreadPoolExecutor(40) as threads:
        list(threads.map(read_and_write, range(120)))
    descriptors = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    opened = Counter(path.name for path in descriptors if path.parent == tmp_path)
    assert opened["node.sqlite"] == opened["node.sqlite-wal"] <= SQLITE_CONNECTIONS
    assert opened.total() == 2 * opened["node.sqlite"] + 1, "and the shared memory"
