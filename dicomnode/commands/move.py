"""The command that takes a node from its embedded database to a PostgreSQL server."""

from __future__ import annotations

import os

from rich.markup import escape

from dicomnode.commands.options import DEFAULT_CONFIG, ConfigOption, admin_audit, console
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.records.db import Database
from dicomnode.records.moving import move_records


def move_database(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Move all records from node.sqlite in the data folder to the empty database that [database] url names.

    Stop the node before. Everything is moved or nothing, and the audit trail is verified on both sides. The
    file is kept as node.sqlite.moved.
    """
    os.umask(0o077)
    settings = load_settings(config)
    file = settings.node.data / "node.sqlite"
    url = settings.database_url
    if url.get_backend_name() == "sqlite":
        raise PermanentError("there is nowhere to move to; set [database] url in the configuration")
    if not file.exists():
        raise PermanentError(f"there is nothing to move: {file} does not exist")
    kept = file.with_name(f"{file.name}.moved")
    if kept.exists():
        raise PermanentError(f"{kept} is there already, from an earlier move; put it somewhere else")
    source, target = Database(f"sqlite:///{file}"), Database(url)
    moved = move_records(source, target, settings.anchors, admin_audit())
    for database in (source, target):
        database.engine.dispose()  # SQLite puts its journal into the file when the last connection ends
    file.rename(kept)
    for table, count in moved.counts.items():
        console.print(f"{table}: {count}")
    console.print(
        f"moved to {escape(str(url.set(query={})))}: {moved.check.event_count} events, unbroken on both sides"
    )
    console.print(f"the file is kept as {escape(str(kept))}")
