"""How often a password may be guessed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

WINDOW_S = 900.0
FAILURES_OF_NAME_AND_ADDRESS = 5
FAILURES_OF_ADDRESS = 30
FAILURES_OF_NAME = 50
"""Of one name from anywhere: high, so that nobody can lock somebody else out by a few wrong words."""
MOST_REMEMBERED = 10_000
REFUSED_AGAIN_S = 60.0
"""How often it is recorded that an address is not heard: a stranger must not fill the audit."""


@dataclass
class LoginLimiter:
    """Counts failed logins of the last quarter of an hour, in memory, by name, address and both."""

    clock: Callable[[], float] = time.monotonic
    _failures: dict[Hashable, deque[float]] = field(default_factory=dict)
    _refused: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_try(self, name: str, address: str) -> bool:
        """Whether one more attempt is heard at all."""
        with self._lock:
            return all(self._count(key) < limit for key, limit in _limits(name, address))

    def refused(self, address: str) -> bool:
        """Whether an attempt that was not heard is the first in a minute from its address."""
        with self._lock:
            now = self.clock()
            self._refused = {key: at for key, at in self._refused.items() if now - at < REFUSED_AGAIN_S}
            is_first = address not in self._refused
            self._refused.setdefault(address, now)
        return is_first

    def failed(self, name: str, address: str) -> None:
        """Remember a wrong password."""
        with self._lock:
            if len(self._failures) > MOST_REMEMBERED:
                self._failures = {key: times for key, times in self._failures.items() if self._count(key)}
            for key, _ in _limits(name, address):
                self._failures.setdefault(key, deque(maxlen=FAILURES_OF_NAME)).append(self.clock())

    def succeeded(self, name: str, address: str) -> None:
        """Forget the wrong passwords of who has found the right one."""
        with self._lock:
            self._failures.pop((name, address), None)

    def _count(self, key: Hashable) -> int:
        times = self._failures.get(key, deque())
        while times and times[0] < self.clock() - WINDOW_S:
            times.popleft()
        return len(times)


def _limits(name: str, address: str) -> tuple[tuple[Hashable, int], ...]:
    return (
        ((name, address), FAILURES_OF_NAME_AND_ADDRESS),
        (("address", address, ""), FAILURES_OF_ADDRESS),
        (("name", name, ""), FAILURES_OF_NAME),
    )
