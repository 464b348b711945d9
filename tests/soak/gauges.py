"""What a long-running process uses, watched from outside: memory, open files, threads, queues."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 2.0
ALLOWED_GROWTH = 1.25
ALLOWED_GROWTH_MB = 64.0
ALLOWED_FILES = 8
"""More than at rest before: connections of the database's pool stay open."""


@dataclass(frozen=True)
class Reading:
    """One look at a process."""

    memory_mb: float
    open_files: int
    threads: int


def read(pid: int) -> Reading | None:
    """What the kernel says of a process; None when it is gone."""
    process = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        open_files = len(list((process / "fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Reading(int(status["VmRSS"].split()[0]) / 1024, open_files, int(status["Threads"]))


class Watch:
    """Reads again and again, on a thread of its own."""

    def __init__(self, pid: int, queue_length: Callable[[], int]) -> None:
        self.readings: list[Reading] = []
        self.longest_queue = 0
        self._pid, self._queue_length = pid, queue_length
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(INTERVAL_S):
            if (reading := read(self._pid)) is not None:
                self.readings.append(reading)
            self.longest_queue = max(self.longest_queue, self._queue_length())


def memory_early_and_late_mb(readings: list[Reading]) -> tuple[float, float]:
    """Medians of the second and of the last quarter of a run; the first quarter warms up."""
    quarter = max(1, len(readings) // 4)
    early, late = readings[quarter : 2 * quarter] or readings[:1], readings[-quarter:]
    return tuple(statistics.median(r.memory_mb for r in part) for part in (early, late))  # type: ignore[return-value]


def growth(readings: list[Reading], before: Reading, after: Reading) -> list[str]:
    """What did not stay flat."""
    early_mb, late_mb = memory_early_and_late_mb(readings)
    found = []
    if late_mb > max(early_mb * ALLOWED_GROWTH, early_mb + ALLOWED_GROWTH_MB):
        found.append(f"memory of the receiver grew from {early_mb:.0f} to {late_mb:.0f} MB")
    if after.open_files > before.open_files + ALLOWED_FILES:
        found.append(f"open files of the receiver grew from {before.open_files} to {after.open_files}")
    if after.threads > before.threads + ALLOWED_FILES:
        found.append(f"threads of the receiver grew from {before.threads} to {after.threads}")
    return found
