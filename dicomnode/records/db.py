"""Transactions as `with` blocks, and bringing the schema up to date.

Whoever writes can rely on it that nobody else does meanwhile: SQLite has one writer at a time, and on
PostgreSQL a lock sees to it. Only who says `beside_others` and takes the locks of his rows himself writes
beside others of that kind. See docs/decisions/0037-writing-alone.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, func, make_url, select
from sqlalchemy.orm import Session

from dicomnode.records.copies import keep_before_migration
from dicomnode.records.engines import engine_for, reading
from dicomnode.records.notify import PostgresWake
from dicomnode.records.revisions import is_newer, refuse_what_is_too_new
from dicomnode.records.wake import LocalWake, NoWake, Wake, announced

WRITERS = 0x77726974657273
"""Number of the advisory lock of writers ("writers")."""

log = structlog.get_logger()


class Database:
    """Transactions on one engine, and the signals that follow them."""

    def __init__(self, url: str | URL) -> None:
        self.engine = engine_for(make_url(url))
        self.wake = _wake(self.engine)
        self._reading = reading(self.engine)

    @contextmanager
    def transaction(self, *, beside_others: bool = False) -> Iterator[Session]:
        """A read-write transaction: committed at the end of the block, rolled back on any exception.

        What is announced in it (`wake.announce`) is signalled after the commit.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            wait_for_writers(session.connection(), beside_others=beside_others)
            yield session
        for topic in announced(session):
            self.wake.signal(topic)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A consistent view for reading; never blocks writers."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session


def _wake(engine: Engine) -> Wake:
    if engine.dialect.name == "postgresql":
        return PostgresWake(engine)
    file = engine.url.database
    return LocalWake(Path(file).parent / "wake") if file else NoWake()


def wait_for_writers(connection: Connection, *, beside_others: bool = False) -> None:
    """Wait until no other transaction writes, or with `beside_others` none that wants to be alone.

    SQLite has done so when the transaction began.
    """
    if connection.dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock_shared if beside_others else func.pg_advisory_xact_lock
        connection.execute(select(lock(WRITERS)))


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision; does nothing when it is there already, or beyond.

    A SQLite file of an older revision is copied first (`copies.py`). Raises ConfigurationError when a newer
    program has brought it to a revision that this one cannot work with.
    """
    config, newest = _alembic(), newest_revision()
    with database.engine.begin() as connection:
        wait_for_writers(connection)
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is not None and is_newer(revision, newest):
            refuse_what_is_too_new(revision, newest)
            log.warning("schema_is_newer", revision=revision, newest_known=newest)
            return
        file = database.engine.url.database
        if connection.dialect.name == "sqlite" and file and revision not in (None, newest):
            keep_before_migration(Path(file), str(revision))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_new(database: Database) -> bool:
    """Whether there is nothing in the database yet, not even a schema."""
    with database.snapshot() as session:
        return revision_of(session) is None


def newest_revision() -> str:
    """The revision of the schema that this program was made for."""
    (head,) = ScriptDirectory.from_config(_alembic()).get_heads()
    return head


def revision_of(session: Session) -> str | None:
    """The revision of the schema that the database has."""
    return MigrationContext.configure(session.connection()).get_current_revision()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
