"""Fills tables as fast as a database takes it: COPY on PostgreSQL, one prepared statement on SQLite.

For empty tables of a database that need not survive a crash meanwhile. Indexes are made at the end, which
sorts once instead of millions of times; foreign keys are not looked after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection, Engine, Table
from sqlalchemy.engine import Dialect

from dicomnode.records.tables import Base

Record = dict[str, Any]
Bind = Callable[[Any], Any]

_INDEXES = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "postgresql": (
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND NOT EXISTS ("
        "SELECT FROM pg_constraint WHERE conname = indexname)"
    ),
}
"""Those that are no constraints, with the statements that make them."""


def fill_tables(engine: Engine, tables: Iterable[tuple[type[Base], Iterable[Record]]]) -> None:
    """Insert records, all of a table with the same keys, and gather statistics at the end."""
    with engine.connect() as connection, _in_a_hurry(connection):
        for row, records in tables:
            _insert(connection, row.__table__, records)  # type: ignore[arg-type]


@contextmanager
def _in_a_hurry(connection: Connection) -> Iterator[None]:
    kind = connection.dialect.name
    if kind == "sqlite":  # not within a transaction
        driver = connection.connection.cursor()
        for pragma in ("synchronous=OFF", "foreign_keys=OFF", "cache_size=-400000"):
            driver.execute(f"PRAGMA {pragma}")
    with connection.begin():
        if kind == "postgresql":
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '256MB'")
        indexes = connection.exec_driver_sql(_INDEXES[kind]).all()
        for name, _ in indexes:
            connection.exec_driver_sql(f'DROP INDEX "{name}"')
        yield
        for _, statement in indexes:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("ANALYZE")
    if kind == "sqlite":
        connection.invalidate()  # the next one is as careful as ever


def _insert(connection: Connection, table: Table, records: Iterable[Record]) -> None:
    remaining = iter(records)
    first = next(remaining, None)
    if first is None:
        return
    absent = [column for column in table.columns if column.default and column.name not in first]
    defaults = {column.name: _default(column) for column in absent}
    columns = [table.columns[name] for name in (*first, *defaults)]
    binds = [_bind(column, connection.dialect) for column in columns]
    rows = (
        [bind(value) for bind, value in zip(binds, (*record.values(), *defaults.values()), strict=True)]
        for record in chain((first,), remaining)
    )
    into = f"{table.name} ({', '.join(column.name for column in columns)})"
    driver: Any = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        driver.executemany(f"INSERT INTO {into} VALUES ({', '.join('?' * len(columns))})", rows)
        return
    with driver.copy(f"COPY {into} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    if "id" in first:
        _go_on_numbering(connection, table)


def _go_on_numbering(connection: Connection, table: Table) -> None:
    """PostgreSQL does not see which numbers were given."""
    sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
    connection.exec_driver_sql(f"SELECT setval({sequence}, (SELECT max(id) FROM {table.name}))")


def _default(column: Column[Any]) -> Any:
    default: Any = column.default
    return default.arg(None) if default.is_callable else default.arg


def _bind(column: Column[Any], dialect: Dialect) -> Bind:
    """How a value of this column goes to the driver."""
    return column.type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is


def _as_it_is(value: Any) -> Any:
    return value
