"""Two versions of the program on one database: what the older may work with, and that migrations say so.

Two real versions side by side are in tests/system/test_machines.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from dicomnode.errors import ConfigurationError
from dicomnode.observe.readiness import readiness
from dicomnode.records.db import Database, _alembic, migrate, newest_revision, revision_of
from dicomnode.records.revisions import Revision, can_work_with
from dicomnode.settings.node import Settings

FIRST_WITH_RULES = 15
"""Older migrations were written when nodes were stopped to be upgraded."""

Schema = Mapping[str, Mapping[str, Any]]


@pytest.mark.parametrize(
    ("found", "own", "works"),
    [
        ("0015", "0015", True),
        ("0014", "0015", False),  # it is migrated first
        (None, "0015", False),
        ("0017", "0015", True),
        ("0017_needs_0015", "0015", True),
        ("0017_needs_0016", "0015", False),
        ("0017_needs_0016", "0016_needs_0016", True),
        ("0019_needs_0018", "0017", False),
    ],
)
def test_a_program_works_with_its_own_schema_and_with_newer_ones_that_allow_it(
    found: str | None, own: str, works: bool
) -> None:
    assert can_work_with(found, own) is works


def set_revision(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def schema_of(settings: Settings, database: Database) -> bool:
    (schema,) = [found for found in readiness(settings, database) if found.name == "schema"]
    return schema.good


@pytest.mark.both_databases
def test_an_older_program_goes_on_after_a_migration_that_only_added(
    settings: Settings, database: Database
) -> None:
    newer = f"{Revision.named(newest_revision()).number + 1:04}"
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE studies ADD COLUMN of_tomorrow VARCHAR"))
    set_revision(database, newer)
    migrate(database)
    with database.snapshot() as session:
        assert revision_of(session) == newer
    assert schema_of(settings, database)


def test_an_older_program_refuses_to_start_after_a_migration_that_took_away(
    settings: Settings, database: Database
) -> None:
    number = Revision.named(newest_revision()).number + 1
    set_revision(database, f"{number:04}_needs_{number:04}")
    with pytest.raises(ConfigurationError, match="too old for it"):
        migrate(database)
    assert not schema_of(settings, database)


def test_a_schema_of_somebody_else_is_refused(database: Database) -> None:
    set_revision(database, "ae1027a6acf")
    with pytest.raises(ConfigurationError, match="not ours"):
        migrate(database)


def schema(engine: Engine) -> Schema:
    found = inspect(engine)
    return {
        table: {column["name"]: column for column in found.get_columns(table)}
        for table in found.get_table_names()
    }


def breaks(before: Schema, after: Schema) -> list[str]:
    """What older programs, which read and write as before, would stumble over."""
    found = []
    for table, columns in before.items():
        if table not in after:
            found.append(f"table {table} is gone")
            continue
        found += [f"{table}.{name} is gone" for name in columns if name not in after[table]]
        for name, column in after[table].items():
            was_there = name in columns
            if not was_there and not column["nullable"] and column["default"] is None:
                found.append(f"{table}.{name} must be given")
            if was_there and columns[name]["nullable"] and not column["nullable"]:
                found.append(f"{table}.{name} may not be empty any more")
    return found


def test_every_migration_that_older_programs_cannot_bear_says_so(tmp_path: Any) -> None:
    scripts = ScriptDirectory.from_config(_alembic())
    database, config = Database(f"sqlite:///{tmp_path / 'node.sqlite'}"), _alembic()
    needs, before = 0, schema(database.engine)
    for script in reversed(list(scripts.walk_revisions())):
        with database.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, script.revision)
        step, after = Revision.named(script.revision), schema(database.engine)
        if step.number >= FIRST_WITH_RULES and (found := breaks(before, after)):
            assert step.needs == step.number, found
        assert step.needs >= needs  # what was taken away stays away
        needs, before = step.needs, after
    assert Revision.named(newest_revision()).number >= 14


def test_what_breaks_would_be_noticed(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    migrate(database)
    before = schema(database.engine)
    with database.engine.begin() as connection:
        for change in (
            "ALTER TABLE studies ADD COLUMN harmless VARCHAR",
            "ALTER TABLE studies ADD COLUMN counted INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE studies DROP COLUMN completed_by",
            "DROP TABLE decisions",
        ):
            connection.execute(text(change))
    assert breaks(before, schema(database.engine)) == [
        "table decisions is gone",
        "studies.completed_by is gone",
    ]
    needed = (
        {"studies": {"a": {"nullable": True}}},
        {"studies": {"a": {"nullable": False}, "b": {"nullable": False, "default": None}}},
    )
    assert breaks(*needed) == ["studies.a may not be empty any more", "studies.b must be given"]
