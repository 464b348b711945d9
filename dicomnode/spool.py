"""Files on disk: written whole or not at all, durable before anybody is told.

studies/<study uid>/<series uid>/<sop instance uid>_<digest>.dcm   as received
results/<study uid>/<sop instance uid>_<attempt>.dcm                         as sent
journals/<process>/<number>.journal                          acknowledged, not yet above
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Literal

from dicomnode.errors import PermanentError
from dicomnode.mounts import mount_of, syncs_at_once

HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
"""This machine, in the names of files that are being written."""
LONGEST_WRITE_S = 3600.0
PROBE_BYTES = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)
FILE_META_LENGTH_AT = 140
"""Behind preamble, "DICM", and tag, VR and length of (0002,0000)."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def data_set_sha256(path: Path) -> str:
    """SHA-256 of the data set in a stored file, without what goes before it (PS3.10 section 7.1).

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(FILE_META_LENGTH_AT)
        length = int.from_bytes(file.read(4), "little")
        file.seek(FILE_META_LENGTH_AT + 4 + length)
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file as it lies; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def is_uid(value: str) -> bool:
    """Whether `value` is formed like a UID (PS3.5 section 9.1), so it can safely name a file."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def require_uids(*values: str) -> None:
    """Raise PermanentError when one cannot safely name a file."""
    for value in values:
        if not is_uid(value):
            raise PermanentError(f"{value[:64]!r} is not a UID; the sender must correct it")


class Spool:
    """The folder that holds every received instance and every result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folders, readable by this user only."""
        for part in ("studies", "results", "journals"):
            (self.folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self._sync_own_names()

    def remove_leftovers(self, part: Literal["studies", "results"]) -> None:
        """Remove what was left half-written: by a process of this machine that is gone, or long ago by any.

        Other machines that share the spool have processes that cannot be seen from here.
        """
        for leftover in (self.folder / part).rglob("*.part"):
            if _is_left(leftover):
                leftover.unlink(missing_ok=True)

    @property
    def journals(self) -> Path:
        """Where receiving processes keep what they acknowledged until it is a file and a row."""
        return self.folder / "journals"

    @property
    def older_journals(self) -> Path:
        """Where versions before this one keep them: they would remove a journal that they cannot read."""
        return self.folder / "incoming"

    def instance_path(self, study_uid: str, series_uid: str, sop_uid: str, sha256: str) -> Path:
        """Where one content of one instance is kept. Raises PermanentError for a malformed UID."""
        require_uids(study_uid, series_uid, sop_uid)
        return self.folder / "studies" / study_uid / series_uid / f"{sop_uid}_{sha256[:16]}.dcm"

    def result_path(self, study_uid: str, sop_uid: str, attempt: str) -> Path:
        """Where one of our own objects is kept; every attempt of a job has files of its own."""
        return self.folder / "results" / study_uid / f"{sop_uid}_{attempt}.dcm"

    def results_of(self, study_uid: str, attempt: str) -> list[Path]:
        """The files that one attempt has written so far."""
        return sorted((self.folder / "results" / study_uid).glob(f"*_{attempt}.dcm"))

    def write(self, path: Path, *parts: bytes | memoryview) -> None:
        """Write a file that is whole and on the disk when this returns, under its final name.

        Raises OSError when the disk does not take it; nothing is left behind then.
        """
        self._write(path, parts, durable=True)

    def place(self, path: Path, *parts: bytes | memoryview) -> None:
        """As `write`, but the file is on the disk only after `sync`."""
        self._write(path, parts, durable=not self._syncs_at_once)

    @cached_property
    def _syncs_at_once(self) -> bool:
        return syncs_at_once(mount_of(self.folder))

    def sync(self) -> None:
        """Bring all that was written on the file system of the spool to the disk."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)

    def _write(self, path: Path, parts: tuple[bytes | memoryview, ...], *, durable: bool) -> None:
        partial = path.with_name(f"{path.name}.{HOST}.{os.getpid()}.{os.urandom(4).hex()}.part")
        try:
            with _opened(partial) as file:
                for part in parts:
                    view = memoryview(part)
                    while view:
                        view = view[file.write(view) :]
                if durable:
                    os.fsync(file.fileno())
            partial.rename(path)
            if durable:
                self.sync_folders(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def sync_folders(self, folder: Path) -> None:
        """Make new names durable: those in `folder`, and it and those above it, which may be new too."""
        sync_folder(folder)
        while folder != self.folder:
            folder = folder.parent
            sync_folder(folder)

    def _sync_own_names(self) -> None:
        """Make the names of the spool and of the data folder above it durable: both may be new.

        A folder above that may not be read was made by somebody else, and so was the name in it.
        """
        data = self.folder.absolute().parent
        for folder in (self.folder, data, data.parent):
            if os.access(folder, os.R_OK):
                sync_folder(folder)

    def is_there(self) -> bool:
        """Whether it can be seen: not while its disk is not mounted."""
        try:
            return (self.folder / "studies").is_dir()
        except OSError:
            return False

    def works(self) -> bool:
        """Whether it is there and takes what is written: not while its disk is full or read-only."""
        probe = self.folder / "results" / f"probe.{HOST}.{os.getpid()}.{os.urandom(4).hex()}.part"
        try:
            with probe.open("xb", buffering=0) as file:
                file.write(bytes(PROBE_BYTES))
                os.fsync(file.fileno())
                return self.is_there() and os.fstat(file.fileno()).st_size == PROBE_BYTES
        except OSError:
            return False
        finally:
            with suppress(OSError):
                probe.unlink()

    def files(self) -> Iterator[Path]:
        """Every instance and result, in no order."""
        for part in ("studies", "results"):
            yield from (self.folder / part).rglob("*.dcm")

    def remove_empty_folders(self, older_than_s: float) -> None:
        """Remove folders of studies and series in which nothing was for so long."""
        before = time.time() - older_than_s
        for part in ("studies", "results"):
            for folder, _, _ in os.walk(self.folder / part, topdown=False):
                path = Path(folder)
                if path.parent != self.folder and path.stat().st_mtime < before:
                    with suppress(OSError):  # not empty
                        path.rmdir()

    def free_bytes(self) -> int:
        """Free space of the disk that holds the spool."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize


def _opened(path: Path) -> FileIO:
    """A new file, in folders that are made; the sweep may remove an empty one just before it is used."""
    for _ in range(2):
        with suppress(FileNotFoundError):
            return path.open("xb", buffering=0)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.open("xb", buffering=0)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_left(partial: Path) -> bool:
    host, pid = partial.name.split(".")[-4:-2]
    if host == HOST and not _is_alive(int(pid)):
        return True
    with suppress(FileNotFoundError):  # it has its final name now
        return time.time() - partial.stat().st_mtime > LONGEST_WRITE_S
    return False


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine still runs under this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
