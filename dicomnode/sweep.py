"""Removes files of the spool that no row speaks of: left behind by a crash, older than a day.

Files whose rows say that they are purged go at once: a crash came between the mark and the removal.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.records.tables import InstanceRow, ResultRow
from dicomnode.spool import Spool

ORPHAN_AGE_S = 86400.0
MOST_ORPHANS = 100
"""A crash leaves a handful. Of more, the database is to be doubted, not the files: none is removed."""
INTERVAL_S = 6 * 3600.0
PATHS_AT_ONCE = 500

Place = tuple[str, ...]
"""The last three parts of a path: they name a file, wherever the spool lay when its row was written."""

log = structlog.get_logger()


class Sweep:
    """Goes through the spool now and then. One per node."""

    def __init__(self, spool: Spool, database: Database) -> None:
        self._spool = spool
        self._database = database
        self._audit = Audit("housekeeping")
        self._next = 0.0

    def sweep_when_due(self) -> None:
        """Sweep soon after the start, and then every few hours."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL_S
            self.sweep()

    def sweep(self) -> int:
        """Remove what nobody speaks of; returns how many files went."""
        self._spool.remove_leftovers("studies")  # of a recorder, too: its receiver lived on
        unspoken = list(self._unspoken())
        purged = [path for path, was_purged in unspoken if was_purged]
        orphans = [path for path, was_purged in unspoken if not was_purged]
        if len(orphans) > MOST_ORPHANS:
            log.error("too_many_orphans", count=len(orphans), remedy="is this the database of this spool?")
            orphans = []
        removed = [self._remove(path, was_purged=True) for path in purged]
        removed += [self._remove(path, was_purged=False) for path in orphans]
        self._spool.remove_empty_folders(ORPHAN_AGE_S)
        return sum(removed)

    def _unspoken(self) -> Iterator[tuple[Path, bool]]:
        """Files that no row says are here, and whether one says that they were purged; no young orphans."""
        files = self._spool.files()
        while paths := list(islice(files, PATHS_AT_ONCE)):
            with self._database.snapshot() as session:
                spoken = _spoken_of(session, paths)
            for path in paths:
                is_here = spoken.get(_place(path))
                if is_here is False or (is_here is None and _is_old(path)):
                    yield path, is_here is False

    def _remove(self, path: Path, was_purged: bool) -> bool:
        """Remove one file within a writing transaction, after the event.

        Who takes the same instance in at this moment has recorded it before, or looks for the file
        afterwards and writes it anew.
        """
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            with self._database.transaction() as session:
                study = Subject(path.relative_to(self._spool.folder).parts[1])
                told = {"file": path.name, "sha256": sha256, "was_purged": was_purged}
                self._audit.record(session, Event.ORPHAN_REMOVED, study, **told)
                if _spoken_of(session, [path]).get(_place(path)):
                    raise _SpokenOf
                path.unlink()
        except (FileNotFoundError, _SpokenOf):
            return False
        log.warning("orphan_removed", file=path.name)
        return True


class _SpokenOf(Exception):
    """A row came to speak of the file; rolls the event back."""


def _spoken_of(session: Session, paths: Sequence[Path]) -> dict[Place, bool]:
    """Of the files that rows speak of: whether they say that it is here.

    Looked up by the SOP Instance UID, with which the name of each file begins.
    """
    uids = {path.name.partition("_")[0] for path in paths}
    return {
        _place(Path(path)): purged_at is None
        for table in (InstanceRow, ResultRow)
        for path, purged_at in session.execute(
            select(table.path, table.purged_at).where(table.sop_instance_uid.in_(uids))
        )
    }


def _place(path: Path) -> Place:
    return path.parts[-3:]


def _is_old(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime >= ORPHAN_AGE_S
    return False
