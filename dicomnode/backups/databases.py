"""How the database of one moment gets into a backup and out of it again, for either kind of database."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, MetaData, func, inspect, select, text
from sqlalchemy.orm import Session

from dicomnode.backups.manifest import DATABASE, DUMP
from dicomnode.errors import PermanentError, TransientError
from dicomnode.records.copies import copy_sqlite
from dicomnode.records.db import Database

CLIENT = "install PostgreSQL's client programs, of the server's version or newer (Debian: postgresql-client)"


@contextmanager
def saved_database(database: Database, folder: Path) -> Iterator[Session]:
    """Write the database into `folder`; the session sees exactly what was written.

    Raises PermanentError when pg_dump is not there or refuses.
    """
    if database.engine.dialect.name == "postgresql":
        with database.snapshot() as session:
            session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            moment = session.scalar(select(func.pg_export_snapshot()))
            _run("pg_dump", database.engine.url, "--format=custom", f"--snapshot={moment}",
                 f"--file={folder / DUMP}")  # fmt: skip
            yield session
        return
    copy_sqlite(Path(str(database.engine.url.database)), folder / DATABASE)
    copy = Database(f"sqlite:///{folder / DATABASE}")
    try:
        with copy.snapshot() as session:
            yield session
    finally:
        copy.engine.dispose()


def brought_back(backup: Path, url: URL, staged: Path) -> Database:
    """The database of a backup: a file in `staged`, or the empty PostgreSQL database that `url` names.

    Raises PermanentError when backup and configuration do not fit, or that database is not empty.
    """
    if (backup / DUMP).exists() != (url.get_backend_name() == "postgresql"):
        kind = "PostgreSQL" if (backup / DUMP).exists() else "SQLite"
        raise PermanentError(f"the backup is of a {kind} database, and [database] says otherwise ({url})")
    if not (backup / DUMP).exists():
        shutil.copyfile(backup / DATABASE, staged / DATABASE)
        (staged / DATABASE).chmod(0o600)
        return Database(f"sqlite:///{staged / DATABASE}")
    database = Database(url)
    if inspect(database.engine).get_table_names():
        raise PermanentError(
            f"the database {url} is not empty; drop it and make it anew, or name another in "
            "DICOMNODE_DATABASE_URL"
        )
    options = ("--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges")
    _run("pg_restore", database.engine.url, *options, str(backup / DUMP))
    return database


def take_away(database: Database) -> None:
    """Undo what `brought_back` did to a PostgreSQL database; a file goes with its folder."""
    if database.engine.dialect.name == "postgresql":
        found = MetaData()
        found.reflect(database.engine)
        with database.engine.begin() as connection:
            found.drop_all(connection)
            connection.execute(text("DROP FUNCTION IF EXISTS refuse_audit_change()"))


def _run(program: str, url: URL, *arguments: str) -> None:
    """Run one of PostgreSQL's programs; its arguments, which others can see, hold no password."""
    from psycopg.conninfo import make_conninfo

    names: dict[str, Any] = {"user": url.username, "dbname": url.database, **url.query}
    environment = {**os.environ, "PGPASSWORD": str(url.password)} if url.password else dict(os.environ)
    command = [program, f"--dbname={make_conninfo('', **names)}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError as error:
        raise PermanentError(f"{program} is not installed; {CLIENT}") from error
    except OSError as error:
        raise TransientError(f"{program} cannot be started: {error.strerror}") from error
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PermanentError(f"{program} failed: {told}; {CLIENT} if it is older than the server")
