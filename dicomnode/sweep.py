"""Removes files of the spool that no row speaks of: left behind by a crash, older than a day.

Files whose rows say that they are purged go at once: a crash came between the mark and the removal.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import structlog
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.records.tables import InstanceRow, ResultRow
from dicomnode.spool import Spool

ORPHAN_AGE_S = 86400.0
INTERVAL_S = 6 * 3600.0
PATHS_AT_ONCE = 500

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
        removed = 0
        files = self._spool.files()
        while paths := list(islice(files, PATHS_AT_ONCE)):
            with self._database.snapshot() as session:
                here = _spoken_of(session, paths)
            removed += sum(self._remove(path) for path in paths if path not in here)
        self._spool.remove_empty_folders(ORPHAN_AGE_S)
        return removed

    def _remove(self, path: Path) -> bool:
        """Within a writing transaction, after the event: who takes the same instance in at this moment has
        recorded it before, or looks for the file afterwards and writes it anew.
        """
        try:
            with self._database.transaction() as session:
                purged = session.scalar(_rows_of(InstanceRow, [path])) or session.scalar(
                    _rows_of(ResultRow, [path])
                )
                if not purged and time.time() - path.stat().st_mtime < ORPHAN_AGE_S:
                    return False
                self._audit.record(
                    session,
                    Event.ORPHAN_REMOVED,
                    Subject(path.relative_to(self._spool.folder).parts[1]),
                    file=path.name,
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    was_purged=bool(purged),
                )
                if _spoken_of(session, [path]):
                    raise _SpokenOf
                path.unlink()
        except (FileNotFoundError, _SpokenOf):
            return False
        log.warning("orphan_removed", file=path.name)
        return True


class _SpokenOf(Exception):
    """A row came to speak of the file; rolls the event back."""


def _spoken_of(session: Session, paths: Sequence[Path]) -> set[Path]:
    """Those of the files whose rows say that they are here."""
    return {
        Path(found)
        for table in (InstanceRow, ResultRow)
        for found in session.scalars(_rows_of(table, paths).where(table.purged_at.is_(None)))
    }


def _rows_of(table: type[InstanceRow] | type[ResultRow], paths: Sequence[Path]) -> Select[str]:
    """The paths that rows speak of, looked up by the SOP Instance UID in the name of the file."""
    uids = {path.name.partition("_")[0] for path in paths}
    named = select(table.path).where(table.sop_instance_uid.in_(uids))
    return named.where(table.path.in_([str(path) for path in paths]))
