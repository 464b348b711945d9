"""Consistent copies of the SQLite file while others write to it, by SQLite's own backup interface."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

KEPT = 3
"""Copies made before a migration; older ones are removed."""


def copy_sqlite(source: Path, destination: Path) -> None:
    """Copy a database of one moment, its journal included. Writers go on meanwhile.

    Raises FileExistsError, and OSError or sqlite3.Error when the disk does not take it; nothing is left
    behind then.
    """
    destination.touch(mode=0o600, exist_ok=False)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(destination)) as copy,
        ):
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    except BaseException:
        destination.unlink()
        raise


def keep_before_migration(file: Path, revision: str) -> Path:
    """Put a copy of the file beside it, named by its revision, and remove all but the newest three."""
    copies = file.with_name(f"{file.name}.before-migration")
    copies.mkdir(exist_ok=True, mode=0o700)
    number = 1 + max((int(path.name.split("-")[0]) for path in copies.glob("[0-9]*-*.sqlite")), default=0)
    made = copies / f"{number:04d}-revision-{revision}.sqlite"
    copy_sqlite(file, made)
    for old in sorted(copies.glob("[0-9]*-*.sqlite"))[:-KEPT]:
        old.unlink()
    return made
