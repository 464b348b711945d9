"""Which studies a session has just been looking at, so that one view is one event and not one per picture."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

LASTS_S = 600.0
MOST_REMEMBERED = 10_000


@dataclass
class SeenStudies:
    """Remembers views for ten minutes. Safe for threads."""

    clock: Callable[[], float] = time.monotonic
    _at: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, session: str, study_instance_uid: str) -> None:
        """A view has been recorded in the audit."""
        with self._lock:
            self._at[session, study_instance_uid] = self.clock()
            self._at.move_to_end((session, study_instance_uid))
            while len(self._at) > MOST_REMEMBERED:
                self._at.popitem(last=False)

    def has(self, session: str, study_instance_uid: str) -> bool:
        """Whether the last recorded view of this study by this session is recent."""
        with self._lock:
            at = self._at.get((session, study_instance_uid))
            return at is not None and self.clock() - at < LASTS_S
