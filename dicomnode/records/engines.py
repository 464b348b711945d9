"""How SQLite and PostgreSQL are connected to, so that the node's transactions mean the same on both.

Errors of either never show what was written: it may be patient data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

WAIT_S = 60
"""How long a transaction waits for another; then it fails, and whoever wanted it tries again."""
LOST_AFTER_S = 20
"""After so long without a sign from the other side a connection counts as lost, on both sides."""
SQLITE_CONNECTIONS = 15
"""All of them are kept: while others of the process are at work, SQLite does not close the file of one that
ends, so that connections that come and go leave open files behind."""
KEPT_CONNECTIONS = 5
MORE_CONNECTIONS = 25
"""Beside the kept ones, for moments when every thread of a receiver has something to record."""

_OURS = {
    "application_name": "dicomnode",
    "connect_timeout": "5",
    "target_session_attrs": "read-write",
    "keepalives_idle": str(LOST_AFTER_S // 2),
    "keepalives_interval": str(LOST_AFTER_S // 4),
    "keepalives_count": "2",
    "tcp_user_timeout": str(LOST_AFTER_S * 1000),
}
"""Unless the URL says otherwise. Of several hosts the one that takes writes is the right one."""

_SESSION = {
    "timezone": "UTC",
    "lock_timeout": f"{WAIT_S}s",
    "idle_in_transaction_session_timeout": f"{WAIT_S}s",
    "tcp_keepalives_idle": str(LOST_AFTER_S // 2),
    "tcp_keepalives_interval": str(LOST_AFTER_S // 4),
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": f"{LOST_AFTER_S}s",
}
"""What the server is told, so that a machine that vanished does not keep its locks."""


def engine_for(url: URL) -> Engine:
    """An engine for one database. A SQLite file is made readable by its owner only."""
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    return _postgresql(url)


def _sqlite(url: URL) -> Engine:
    file = Path(url.database or "").absolute()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)  # SQLite gives its journals the same mode
    engine = create_engine(url, hide_parameters=True, pool_size=SQLITE_CONNECTIONS, max_overflow=0)

    @event.listens_for(engine, "do_connect")
    def _never_make_another(_: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        # Where the file is gone while we run, an empty one in its place would take what is lost later.
        arguments[0] = f"{file.as_uri()}?mode=rw"
        options["uri"] = True

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        # We issue BEGIN ourselves; the driver's own deferred BEGIN would upgrade locks midway and fail.
        connection.isolation_level = None
        pragmas = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={WAIT_S}000", "foreign_keys=ON")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL) -> Engine:
    session = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    given = dict(url.query)
    options = f"{session} {given.pop('options', '')}".strip()
    return create_engine(
        url.set(query={**_OURS, **given, "options": options}),
        hide_parameters=True,
        pool_pre_ping=True,  # a server that was restarted is not noticed by failures
        pool_size=KEPT_CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
    )


def reading(engine: Engine) -> Engine:
    """The same engine for reading only: all that a transaction sees is of one moment."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(read_only=True)
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
