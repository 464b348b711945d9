"""How far recorders are behind: what was acknowledged before which time has its rows.

A recorder that has something to do leaves a mark in its journal. Its modification time is when the oldest
image arrived that has no row yet.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

MARK = "behind"
STUCK_S = 60.0
"""A recorder that makes no progress for so long holds up nobody any more."""


def mark_behind(journal: Path, oldest_received_at: datetime) -> None:
    """What arrived then, or later, may have no row yet. Raises OSError."""
    mark = journal / MARK
    mark.touch(0o600)
    at_s = oldest_received_at.timestamp()
    os.utime(mark, (at_s, at_s))


def mark_up_to_date(journal: Path) -> None:
    """All that the recorder has heard of has its row."""
    (journal / MARK).unlink(missing_ok=True)


def recorded_until(journals: Path, now: datetime) -> datetime:
    """All that arrived before this time has its row, in all journals of the folder; `now` at most."""
    found = now
    for mark in journals.glob(f"*/{MARK}"):
        with suppress(FileNotFoundError):  # it has caught up just now
            at = mark.stat()
            if time.time() - at.st_ctime < STUCK_S:
                found = min(found, datetime.fromtimestamp(at.st_mtime, UTC))
    return found
