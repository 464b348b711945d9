"""Tells the processes of a node that there is something for them in the database, as soon as it is committed.

A signal only shortens a wait. What there is to do is always read from the database, and everybody who waits
also looks by himself after a while: a lost signal costs that while, and nothing else.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import structlog
from sqlalchemy.orm import Session

_ANNOUNCED = "wake"

log = structlog.get_logger()


class Topic(StrEnum):
    """What there may be to do."""

    RELEASES = "releases"
    """A sender has released its association: housekeeping asks it what it holds of what it sent."""
    STUDIES = "studies"
    """A study is complete: housekeeping routes it."""
    JOBS = "jobs"
    """A job is due: workers look."""
    DELIVERIES = "deliveries"
    """A result is due to be sent: housekeeping looks at the outbox."""
    COMMITMENTS = "commitments"
    """A destination that commits has taken results: housekeeping asks it about them."""


class Ear(Protocol):
    """Hears the signals of one topic, also those that came between two waits. One thread waits at a time."""

    def wait(self, timeout_s: float) -> bool:
        """Return True as soon as there was a signal since the last wait, False after the time-out."""

    def close(self) -> None:
        """Stop listening."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None: ...


class Wake(Protocol):
    """Signals between everybody who works with one database."""

    def signal(self, topic: Topic) -> None:
        """Wake all who listen to `topic`. Called after the commit; never raises, never blocks."""

    def listen(self, topic: Topic) -> Ear:
        """Listen from now on. To miss nothing: listen first, then look into the database, then wait."""


def announce(session: Session, topic: Topic) -> None:
    """Signal `topic` when the transaction of this session is committed, once, and only then."""
    session.info.setdefault(_ANNOUNCED, set()).add(topic)


def announced(session: Session) -> frozenset[Topic]:
    """What was announced in a transaction."""
    return frozenset(session.info.get(_ANNOUNCED, ()))


class LocalWake:
    """Signals between the processes of one machine, by named pipes in a folder: one pipe for each ear."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def signal(self, topic: Topic) -> None:
        """Write one byte into the pipe of each ear; the pipe of a process that died is removed."""
        for pipe in self._folder.glob(f"{topic.value}.*.pipe"):
            try:
                _write_one(pipe)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nobody has it open for reading
                    pipe.unlink(missing_ok=True)
                elif error.errno not in (
                    errno.EAGAIN,
                    errno.ENOENT,
                ):  # full: it has its signal; closed just now
                    log.warning("wake_not_signalled", topic=topic.value, reason=error.strerror)

    def listen(self, topic: Topic) -> Ear:
        """An ear of this process; where no pipe can be made, one that hears nothing and only waits."""
        try:
            return _Pipe(self._folder, topic)
        except OSError as error:
            log.warning("wake_not_heard", topic=topic.value, folder=str(self._folder), reason=error.strerror)
            return _Deaf()


class NoWake:
    """No signals at all: everybody looks by himself, as often as the time-outs of the waits say."""

    def signal(self, topic: Topic) -> None:
        """Nobody hears it."""

    def listen(self, topic: Topic) -> Ear:
        """An ear that hears nothing."""
        return _Deaf()


class BaseEar:
    """An ear that is closed at the end of a `with` block."""

    def close(self) -> None:
        """Stop listening."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pipe(BaseEar):
    """A named pipe. It gets its name when it is open, so that no signal takes it for one of the dead."""

    def __init__(self, folder: Path, topic: Topic) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{topic.value}.{os.getpid()}.{os.urandom(4).hex()}"
        self._path = folder / f"{name}.pipe"
        nameless = folder / f"{name}.new"
        os.mkfifo(nameless, 0o600)
        try:
            # Open for both: the end of a writer is then no end of file for us.
            self._descriptor = os.open(nameless, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            nameless.rename(self._path)
        except BaseException:
            nameless.unlink(missing_ok=True)
            raise
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """As `Ear` says."""
        if not self._poll.poll(timeout_s * 1000):
            return False
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 4096):
                pass
        return True

    def close(self) -> None:
        """As `Ear` says."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class _Deaf(BaseEar):
    def wait(self, timeout_s: float) -> bool:
        """As `Ear` says; never hears anything."""
        threading.Event().wait(timeout_s)
        return False


def _write_one(pipe: Path) -> None:
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
