"""Faults of the disk and of the database, each begun and ended from outside while the node runs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.real_parts import require_program

PAGE_BYTES = 4096
DATABASE = "node.sqlite"
LOCK_TIMEOUT_S = 60.0
"""How long we try to lock the database; the node's transactions are shorter."""
BUSY_S = 60.0
"""How long the node waits for a locked database before it gives up."""


class Fault(ABC):
    """One thing that is wrong with the data folder of a node, from `begin` to `end`."""

    name: str
    does: str
    lasts_s = 1.5
    """It stays so long when the process at the point complains of it, else `patience_s`."""
    patience_s = 3.0

    @abstractmethod
    def begin(self, data: Path, pid: int) -> None:
        """From now on it is wrong, for the whole data folder or for the process `pid` alone."""

    @abstractmethod
    def end(self) -> None:
        """All is well again."""


class DiskFull(Fault):
    """No room but for a few pages: with more of them it is a later write that fails first."""

    def __init__(self, room_pages: int) -> None:
        self.name = f"disk_full_{room_pages * PAGE_BYTES // 1024}_kb"
        self.does = f"no space left but {room_pages * PAGE_BYTES // 1024} KB (ENOSPC of a real file system)"
        self._room_bytes = room_pages * PAGE_BYTES

    def begin(self, data: Path, pid: int) -> None:
        self._ballast = data / "ballast"
        page = bytes(PAGE_BYTES)
        with self._ballast.open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(page)
            file.truncate(max(0, file.tell() - self._room_bytes))

    def end(self) -> None:
        self._ballast.unlink()


class CallFails(Fault):
    """System calls of one process fail."""

    def __init__(self, name: str, calls: str) -> None:
        self.name = name
        self.does = f"every `{calls.replace(',', '`, `')}` of the process fails (EIO)"
        self._calls = calls

    def begin(self, data: Path, pid: int) -> None:
        strace = require_program("strace")
        orders = ("-e", f"trace={self._calls}", "-e", f"inject={self._calls}:error=EIO")
        command = [strace, "-f", "-o", os.devnull, *orders, "-p", str(pid)]
        self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        assert "attached" in self._strace.stderr.readline()

    def end(self) -> None:
        self._strace.send_signal(signal.SIGINT)
        self._strace.wait(60)


class Locked(Fault):
    """Another program holds the write lock of the database for longer than the node waits."""

    name = "database_locked"
    does = f"another program holds `BEGIN EXCLUSIVE` for more than {BUSY_S:.0f} s"
    lasts_s = BUSY_S + 4.0
    patience_s = BUSY_S + 10.0

    def begin(self, data: Path, pid: int) -> None:
        self._connection = sqlite3.connect(
            data / DATABASE, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


class Gone(Fault):
    """The files of the database are moved away, and later back, over whatever was made meanwhile."""

    name = "database_gone"
    does = "the files of the database are moved away and back, as by an administrator"

    def begin(self, data: Path, pid: int) -> None:
        self._data, self._away = data, data / "away"
        self._away.mkdir()
        for file in data.glob(f"{DATABASE}*"):
            file.rename(self._away / file.name)

    def end(self) -> None:
        self.made_meanwhile = sorted(file.name for file in self._data.glob(f"{DATABASE}*"))
        for file in self._away.iterdir():
            file.rename(self._data / file.name)
        self._away.rmdir()


class Denied(Fault):
    """The data folder becomes read-only for the node (which runs without the right to override that)."""

    name = "permission_denied"
    does = "folders and database lose the right to write (EACCES)"

    def begin(self, data: Path, pid: int) -> None:
        self._modes = {path: path.stat().st_mode for path in (data, *data.rglob("*")) if _may_lose(path)}
        for path, mode in self._modes.items():
            path.chmod(mode & ~0o222)

    def end(self) -> None:
        for path, mode in self._modes.items():
            with suppress(FileNotFoundError):
                path.chmod(mode)


def _may_lose(path: Path) -> bool:
    return path.is_dir() or path.name.startswith(DATABASE)


ROOMS_PAGES = (0, 1, 4, 8, 16)
QUICK: tuple[Callable[[], Fault], ...] = (
    *(partial(DiskFull, pages) for pages in ROOMS_PAGES),
    partial(CallFails, "sync_fails", "fsync,fdatasync"),
    partial(CallFails, "write_fails", "pwrite64,ftruncate"),
    partial(CallFails, "rename_fails", "rename,renameat,renameat2,mkdir"),
    Gone,
    Denied,
)
"""Makers of those that last for moments only."""
