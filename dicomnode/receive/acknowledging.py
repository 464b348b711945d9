"""Takes instances that are new by one write to a journal; everything else takes the way of `Intake`.

What an answer depends on is known before it: a UID that the database or the journal knows already is not new,
and is stored, compared and recorded as ever.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from dicomnode.errors import TransientError
from dicomnode.receive.arrival import Arrival, identify
from dicomnode.receive.behind import mark_behind
from dicomnode.receive.draft import Draft
from dicomnode.receive.entries import Entry
from dicomnode.receive.intake import Intake, Outcome
from dicomnode.receive.journal import Ahead, Journal, NoRoom, Place
from dicomnode.receive.orders import ORDER, REPORT, Order, received
from dicomnode.receive.ownership import new_name
from dicomnode.receive.recorder import Recorder
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.known import KnownInstances
from dicomnode.spool import Spool, require_uids

FLUSH_TIMEOUT_S = 30.0
RESTART_PAUSE_S = 0.5
CHANNEL_BYTES = 2**22
"""Asked for; the system usually gives a tenth, and counts some 700 for each order."""

log = structlog.get_logger()

StartRecorder = Callable[[socket.socket, Path], Callable[[], None]]
"""Starts a recorder at the other end of a channel; returns what waits for its end."""


@dataclass(frozen=True)
class _Pending:
    order: Order
    place: Place
    sop_instance_uid: str = ""


class Acknowledging:
    """Takes arrivals in. One per receiving process; safe to call from many threads."""

    def __init__(self, spool: Spool, database: Database, intake: Intake, start: StartRecorder) -> None:
        self._spool = spool
        self._known = KnownInstances(database)
        self._intake = intake
        self._start = start
        self._journal: Journal | None = None
        self._claimed: set[str] = set()
        self._pending: deque[_Pending] = deque()
        self._done = 0
        self._changed = threading.Condition()
        self._channel: socket.socket | None = None
        self._unsent = bytearray()
        """Orders that wait until the recorder reads on: nobody waits for it."""
        self._wait_for_recorder: Callable[[], None] = lambda: None
        self._listening: threading.Thread | None = None
        self._stopping = False

    def open(self) -> None:
        """Make the journal and start the recorder, before the first image waits for them."""
        self._opened()

    def write_ahead(self, sop_instance_uid: str, draft: Draft, ahead: Ahead) -> None:
        """Write some of a large image that is still arriving, unless it will not go by the journal.

        Whatever is in the way will be met again, and told of, when the image is whole.
        """
        journal = self._journal
        if ahead.is_given_up or journal is None:
            return
        try:
            if journal.takes(draft.size_bytes) and (ahead.pieces or self._is_new(sop_instance_uid)):
                journal.write_ahead(draft, ahead)
            else:
                ahead.is_given_up = True
        except (OSError, TransientError):
            ahead.is_given_up = True

    def forget(self, ahead: Ahead) -> None:
        """An image does not go by the journal: leave what was written of it."""
        if self._journal is not None:
            self._journal.forget(ahead)

    def take(self, arrival: Arrival, draft: Draft | None = None, ahead: Ahead | None = None) -> Outcome:
        """Take one instance; when this returns, it can no longer be lost. Errors as `Intake.take`.

        Whoever has it as a `draft`, or wrote some of it ahead, hands that over.
        """
        uid = arrival.sop_instance_uid
        size_bytes = len(arrival.file_header) + len(arrival.encoded)
        journal = self._opened()
        if journal is None or not journal.takes(size_bytes) or not self._claim(uid):
            self.flush(uid)
            return self._intake.take(arrival)
        is_told = False

        def tell(place: Place) -> None:
            nonlocal is_told
            is_told = True
            self._hand_on(_Pending(Order.RECORD, place, uid))

        try:
            if uid in self._known:
                return self._intake.take(arrival)
            entry = self._entry(arrival)
            journal.append(entry, tell, self._hand_on_full, draft, ahead)
        except NoRoom as error:
            log.warning("not_by_the_journal", reason=str(error))
            return self._intake.take(arrival)
        finally:
            if not is_told:
                self._release(uid)
        return Outcome.OWN_RESULT if entry.identity.own_result else Outcome.NEW

    def flush(self, sop_instance_uid: str | None = None) -> None:
        """Wait until everything, or one UID, that was acknowledged is recorded. Raises TransientError."""
        with self._changed:
            last = self._done + len(self._pending)

            def is_done() -> bool:
                if sop_instance_uid is not None:
                    return sop_instance_uid not in self._claimed
                return self._done >= last

            self._wait_until(is_done)

    def _wait_until(self, is_done: Callable[[], bool]) -> None:
        if self._channel is not None and not is_done():
            self._send(Order.HURRY, Place(0, 0))
        if not self._changed.wait_for(is_done, FLUSH_TIMEOUT_S):
            raise TransientError("what was acknowledged is not recorded yet")

    def close(self) -> None:
        """Have everything recorded, and end the recorder. What it cannot record stays for the next start."""
        if self._journal is None or self._channel is None:
            return
        try:
            self._journal.refuse()  # an association that outlives the listener goes on beside it
            with self._changed:
                begun = set(self._claimed)
                self._wait_until(lambda: begun.isdisjoint(self._claimed) and not self._pending)
            self._spool.sync()
            is_done = True
        except (TransientError, OSError):
            log.error("acknowledged_instances_left_for_the_next_start", count=len(self._pending))
            is_done = False
        self._stopping = True
        with suppress(OSError):  # its recorder has just died
            self._channel.shutdown(socket.SHUT_RDWR)
        self._wait_for_recorder()
        if self._listening is not None:
            self._listening.join()
        self._journal.close(is_done=is_done)
        self._channel = None

    def _opened(self) -> Journal | None:
        """The journal; None where the disk has no room for one."""
        with self._changed:
            if self._journal is None:
                folder = self._spool.journals / new_name()
                try:
                    self._journal = Journal(folder)
                except OSError as error:
                    log.error("no_journal", error=error.strerror)
                    return None
                self._mark_behind(folder)
                self._connect(folder)
            return self._journal

    def _mark_behind(self, folder: Path) -> None:
        """Until its recorder runs, and knows better: that takes seconds, in which images come."""
        try:
            mark_behind(folder, utc_now())
        except OSError as error:
            log.warning("not_marked_behind", error=error.strerror)

    def _connect(self, folder: Path) -> None:
        """Start a recorder, and have it record what an earlier one did not report."""
        ours, its = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BYTES)
        self._wait_for_recorder = self._start(its, folder)
        self._channel = ours
        self._unsent.clear()
        self._listening = threading.Thread(target=self._listen, args=(ours, folder, self._done), daemon=True)
        self._listening.start()
        for pending in self._pending:
            again = Order.RECORD_AGAIN if pending.order is Order.RECORD else pending.order
            self._send(again, pending.place)

    def _listen(self, channel: socket.socket, folder: Path, done_before: int) -> None:
        """Hear what is recorded; start another recorder when this one died."""
        content, was_of_use = b"", False
        while chunk := received(channel):
            content += chunk
            while len(content) >= REPORT.size:
                done, freed = REPORT.unpack_from(content)
                content = content[REPORT.size :]
                self._settle(done_before + done, freed)
                was_of_use = True
        channel.close()
        if not self._stopping:
            log.error("recorder_died")
            self._wait_for_recorder()
            if not was_of_use:
                time.sleep(RESTART_PAUSE_S)  # the next one may fare no better
            while not self._stopping:
                try:
                    with self._changed:
                        self._connect(folder)
                    return
                except OSError as error:  # no memory or process for it now
                    log.error("recorder_not_started", error=error.strerror)
                    time.sleep(RESTART_PAUSE_S)

    def _settle(self, done: int, freed: int) -> None:
        with self._changed:
            while self._done < done:
                self._claimed.discard(self._pending.popleft().sop_instance_uid)
                self._done += 1
            self._push()
            self._changed.notify_all()
        if freed and self._journal is not None:
            self._journal.free(freed)

    def _is_new(self, uid: str) -> bool:
        with self._changed:
            if uid in self._claimed:
                return False
        return uid not in self._known

    def _claim(self, uid: str) -> bool:
        """Be the only one who takes this UID until it is recorded."""
        with self._changed:
            if uid in self._claimed:
                return False
            self._claimed.add(uid)
            return True

    def _release(self, uid: str) -> None:
        with self._changed:
            self._claimed.discard(uid)
            self._changed.notify_all()

    def _entry(self, arrival: Arrival) -> Entry:
        identity = identify(arrival)
        require_uids(identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid)
        return Entry(arrival, identity, utc_now())

    def _hand_on_full(self, segment: int) -> None:
        self._hand_on(_Pending(Order.FREE, Place(segment, 0)))

    def _hand_on(self, pending: _Pending) -> None:
        with self._changed:
            self._pending.append(pending)
            self._send(pending.order, pending.place)

    def _send(self, order: Order, place: Place) -> None:
        self._unsent += ORDER.pack(place.segment, order, place.offset)
        self._push()

    def _push(self) -> None:
        assert self._channel is not None
        try:
            while self._unsent:
                del self._unsent[: self._channel.send(self._unsent, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            pass  # it is busy: the rest follows its next report
        except OSError:  # it died; the next one gets it
            log.warning("recorder_not_reached")


def recorder_in_a_thread(spool: Spool, database: Database, audit: Audit) -> StartRecorder:
    """A recorder within this process: for a listener that only lives for a while."""

    def start(channel: socket.socket, journal: Path) -> Callable[[], None]:
        recorder = Recorder(spool, database, audit)

        def serve() -> None:
            with channel:
                recorder.serve(channel, journal)

        thread = threading.Thread(target=serve, name="recorder", daemon=True)
        thread.start()
        return thread.join

    return start


def recorder_in_a_process(spool: Spool, database: Database) -> StartRecorder:
    """A recorder that shares no interpreter with the receiver, whose answers would wait for it."""

    def start(channel: socket.socket, journal: Path) -> Callable[[], None]:
        command = [sys.executable, "-m", "dicomnode.receive.recording", "record"]
        with channel:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[channel.fileno()])
            told = {
                "spool": str(spool.folder.absolute()),
                "database": database.engine.url.render_as_string(hide_password=False),
                "channel": channel.fileno(),
                "journal": str(journal.absolute()),
            }
            assert process.stdin is not None
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.close()

        def wait() -> None:
            process.wait()

        return wait

    return start
