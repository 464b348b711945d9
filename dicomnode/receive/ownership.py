"""Whose a journal is: its receiving process holds a lock on it for as long as it lives.

What makes files and rows of it, the recorder of that process or the next start, holds another one meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from dicomnode.mounts import locks_reach_others, mount_of
from dicomnode.spool import HOST

LOCK = "lock"
RECORDING = "recording"
RECORDING_PATIENCE_S = 30.0
"""A batch takes no longer, but on a disk or a database that stands still."""
LOOK_INTERVAL_S = 0.02
OURS = f"{HOST}-"
"""What the names of the journals of this machine begin with."""

log = structlog.get_logger()


def new_name() -> str:
    """A name for a journal of this process."""
    return f"{OURS}{os.getpid()}-{os.urandom(4).hex()}"


def make_own(folder: Path) -> int:
    """Make the folder of a journal; closing the descriptor that is returned gives it up."""
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):  # who looks for abandoned journals has just removed the folder
            owner = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX)
            except OSError:
                os.close(owner)
                shutil.rmtree(folder, ignore_errors=True)
                raise
            if (folder / LOCK).exists():
                return owner
            os.close(owner)


@contextmanager
def recording_alone(journal: Path, patience_s: float) -> Iterator[bool]:
    """Be the only one who records this journal, after whoever does now; tells whether we are.

    We are not when the journal is gone by then, or the other one does not end within `patience_s`. A recorder
    may outlive its receiver, and is in the middle of a batch then.
    """
    try:
        descriptor = os.open(journal / RECORDING, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _locked(descriptor, patience_s) and (journal / RECORDING).exists()
    finally:
        os.close(descriptor)


def _locked(descriptor: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_INTERVAL_S)
        else:
            return True


def abandoned(folder: Path) -> Iterator[Path]:
    """Journals in `folder` whose processes are gone; each is nobody else's until the next is asked for.

    Where locks do not reach other machines, theirs are left alone: whether they live cannot be known here.
    """
    others_too = locks_reach_others(mount_of(folder))
    for journal in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (others_too or journal.name.startswith(OURS)):
            log.warning("journal_of_another_machine_left_alone", journal=journal.name)
            continue
        with suppress(FileNotFoundError):
            descriptor = os.open(journal / LOCK, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (journal / LOCK).exists():
                    yield journal
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
