"""Checks the audit trail in the background: the walk along millions of events takes minutes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from dicomnode.errors import NodeError
from dicomnode.records.audit import Audit
from dicomnode.records.chain import ChainCheck
from dicomnode.records.db import Database, utc_now
from dicomnode.records.verifying import own_key, record_check, verify_trail
from dicomnode.settings.node import Settings

log = structlog.get_logger()


@dataclass(frozen=True)
class Status:
    """Where the check stands."""

    running: bool = False
    event_count: int = 0
    finished_at: datetime | None = None
    check: ChainCheck | None = None
    problem: str = ""


@dataclass
class Verification:
    """The last check that somebody asked for here; one at a time."""

    status: Status = field(default_factory=Status)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, settings: Settings, database: Database, audit: Audit) -> bool:
        """Begin in a thread of its own; False when one runs already."""
        with self._lock:
            if self.status.running:
                return False
            self.status = Status(running=True)
        threading.Thread(target=self._run, args=(settings, database, audit), daemon=True).start()
        return True

    def _run(self, settings: Settings, database: Database, audit: Audit) -> None:
        try:
            key = own_key(settings.audit.signing_key)
            check = verify_trail(database, settings.anchors, key, self._progress)
            record_check(database, audit, check)
            self.status = Status(event_count=check.event_count, finished_at=utc_now(), check=check)
        except NodeError as error:
            self.status = Status(finished_at=utc_now(), problem=str(error))
        except Exception as error:
            log.exception("verification_failed")
            problem = f"it ended with {type(error).__name__}; the log of the node says where"
            self.status = Status(finished_at=utc_now(), problem=problem)

    def _progress(self, count: int) -> None:
        self.status = Status(running=True, event_count=count)
