"""What a long-running process uses, watched from outside: memory, open files, threads, queues."""

from __future__ import annotations

import statistics
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicomnode.records.engines import SQLITE_CONNECTIONS

DATABASE = "node.sqlite"
DATABASE_FILES = 2 * SQLITE_CONNECTIONS + 1
"""Each kept connection has the database and its log open; the shared memory is open once."""
INTERVAL_S = 2.0
ALLOWED_GROWTH = 1.25
ALLOWED_GROWTH_MB = 64.0
ALLOWED_FILES = 4
ALLOWED_THREADS = 8


@dataclass(frozen=True)
class Reading:
    """One look at a process."""

    memory_mb: float
    files: Counter[str]
    """Open files by what they are: the name of a file of the database, or a word."""
    threads: int

    @property
    def open_files(self) -> int:
        """How many they are together."""
        return self.files.total()


def read(pid: int) -> Reading | None:
    """What the kernel says of a process; None when it is gone."""
    process = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        files = Counter(_kind(file) for file in (process / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Reading(int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"]))


def _kind(descriptor: Path) -> str:
    """What an open file is; pools and spools make many of a kind."""
    try:
        target = str(descriptor.readlink())
    except FileNotFoundError:  # closed just now
        return "closed"
    if target.startswith(("socket:", "pipe:", "anon_inode:")):
        return target.partition(":")[0]
    name = Path(target).name
    return name if name.startswith(DATABASE) else "other"


def told(files: Counter[str]) -> str:
    """Open files in words."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(files.items()))


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


def _most_files(readings: list[Reading]) -> tuple[int, int]:
    """Most open files in the second and in the last quarter of a run."""
    quarter = max(1, len(readings) // 4)
    early, late = readings[quarter : 2 * quarter] or readings[:1], readings[-quarter:]
    return max(r.open_files for r in early), max(r.open_files for r in late)


def growth(readings: list[Reading], before: Reading, after: Reading) -> list[str]:
    """What did not stay flat."""
    early_mb, late_mb = memory_early_and_late_mb(readings)
    found = []
    if late_mb > max(early_mb * ALLOWED_GROWTH, early_mb + ALLOWED_GROWTH_MB):
        found.append(f"memory of the receiver grew from {early_mb:.0f} to {late_mb:.0f} MB")
    early_files, late_files = _most_files(readings)
    if late_files > early_files + ALLOWED_FILES:
        found.append(
            f"open files of the receiver grew from {early_files} to {late_files} under the same load"
        )
    others = {kind: count for kind, count in after.files.items() if not kind.startswith(DATABASE)}
    at_rest = sum(count for kind, count in before.files.items() if not kind.startswith(DATABASE))
    if sum(others.values()) > at_rest + ALLOWED_FILES:
        found.append(f"the receiver at rest has more open than before, beside its database: {others}")
    if sum(after.files.values()) - sum(others.values()) > DATABASE_FILES:
        found.append(f"more than {DATABASE_FILES} files of the database are open: {told(after.files)}")
    if after.threads > before.threads + ALLOWED_THREADS:
        found.append(f"threads of the receiver grew from {before.threads} to {after.threads}")
    return found
