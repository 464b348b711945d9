"""The database engine, transactions as `with` blocks, and bringing the schema up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from dicomnode.records.copies import keep_before_migration
from dicomnode.records.wake import LocalWake, NoWake, Wake, announced


class Database:
    """Transactions on one engine, and the signals that follow them."""

    def __init__(self, url: str) -> None:
        self.wake: Wake = NoWake()
        if url.startswith("sqlite:///"):
            file = Path(url.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)  # SQLite gives its journals the same mode
            self.wake = LocalWake(file.parent / "wake")
        self.engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            _set_up_sqlite(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A read-write transaction: committed at the end of the block, rolled back on any exception.

        What is announced in it (`wake.announce`) is signalled after the commit.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
        for topic in announced(session):
            self.wake.signal(topic)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A consistent view for reading; never blocks writers."""
        engine = self.engine.execution_options(read_only=True)
        with Session(engine, expire_on_commit=False) as session:
            yield session


def _set_up_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        # We issue BEGIN ourselves; the driver's own deferred BEGIN would upgrade locks midway and fail.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision; does nothing when it is there already.

    A SQLite file of an older revision is copied first (`copies.py`).
    """
    config = _alembic()
    with database.engine.begin() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
        file = database.engine.url.database
        if connection.dialect.name == "sqlite" and file and revision not in (None, newest_revision()):
            keep_before_migration(Path(file), str(revision))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def newest_revision() -> str | None:
    """The revision of the schema that this program works with."""
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def revision_of(session: Session) -> str | None:
    """The revision of the schema that the database has."""
    return MigrationContext.configure(session.connection()).get_current_revision()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
