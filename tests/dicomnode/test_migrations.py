"""The migrations make exactly the tables that the code speaks of, up and down."""

from __future__ import annotations

import stat
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import dicomnode.records.db
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import Base


def downgrade(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(dicomnode.records.db.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")


def test_the_migrations_make_exactly_the_schema_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_table_that_no_migration_makes_would_be_noticed(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE decisions"))
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata)


def test_migrating_twice_is_harmless(database: Database) -> None:
    migrate(database)
    with database.snapshot() as session:
        assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 1


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
