"""Makes files and rows of what receivers acknowledged, many at a time: beside the receiver, or after its end.

At the other end of a channel a receiver says which entries of its journal are new (see `acknowledging.py`),
and hears how many are recorded, and which segments may be written over.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from select import POLLRDHUP, poll

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.receive.behind import mark_behind, mark_up_to_date
from dicomnode.receive.entries import Entry, entries, entry_at
from dicomnode.receive.intake import Found, Intake, Stored, insert_instances, versions_of
from dicomnode.receive.journal import Place, segment_path
from dicomnode.receive.older_entries import older_entries
from dicomnode.receive.orders import REPORT, Batch, Order, Orders
from dicomnode.receive.ownership import RECORDING_PATIENCE_S, abandoned, recording_alone
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.records.tables import ResultRow
from dicomnode.spool import Spool

RETRY_S = 0.5
AT_ONCE = 2
"""Files: digest, checksum and disk leave the interpreter to others. The sender has paused, or waits."""
MOST_RECOVERED_AT_ONCE = 64
"""The largest of them together take some 256 MB of memory."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Filed:
    """An entry, and where its file is now."""

    entry: Entry
    path: Path


class Recorder:
    """Writes entries to the spool and the database."""

    def __init__(self, spool: Spool, database: Database, audit: Audit) -> None:
        self._spool = spool
        self._database = database
        self._intake = Intake(spool, database, audit)
        self._files = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="files")

    def record(self, found: Sequence[Entry], *, again: bool = False) -> None:
        """Make a file and a row of each entry, in one transaction; `again`: unless it has a row already.

        Files are on the disk only after the next `sync` of the spool. Raises OSError and SQLAlchemyError.
        """
        self.write_down(list(self._files.map(self._filed, found)), again=again)

    def write_down(self, found: Sequence[Filed], *, again: bool) -> None:
        """Make the rows of what is filed. Raises as `record`."""
        uids = [filed.entry.arrival.sop_instance_uid for filed in found]
        with self._database.transaction() as session:
            known = versions_of(session, uids)
            results = set(
                session.scalars(
                    select(ResultRow.sop_instance_uid).where(ResultRow.sop_instance_uid.in_(uids))
                )
            )
            recorded = []
            for filed in found:
                entry, arrival = filed.entry, filed.entry.arrival
                versions = known[arrival.sop_instance_uid]
                if again and entry.sha256 in {version.sha256 for version in versions}:
                    continue
                facts = Found(versions, arrival.sop_instance_uid in results, entry.received_at)
                stored = Stored(str(filed.path), entry.sha256, None)
                recorded.append(self._intake.record(session, arrival, entry.identity, stored, facts))
                if not filed.path.exists():  # retention removed it; it cannot while we write here
                    self._filed(entry)
            insert_instances(session, recorded)

    def recover(self, patience_s: float = 0.0) -> int:
        """Record what processes that are gone had acknowledged; returns how many entries there were.

        A journal whose recorder lives longer than `patience_s` is left to it, or to the next look.
        """
        count = 0
        for journal in chain(*map(abandoned, (self._spool.older_journals, self._spool.journals))):
            with recording_alone(journal, patience_s) as is_ours:
                if not is_ours:
                    log.warning("journal_is_being_recorded", journal=journal.name)
                    continue
                for batch in _batches(_entries_of(journal)):
                    mark_behind(journal, min(entry.received_at for entry in batch))
                    self.record(batch, again=True)
                    count += len(batch)
                self._spool.sync()
                shutil.rmtree(journal)
        if count:
            log.warning("acknowledged_instances_recovered", count=count)
        return count

    def unrecorded(self) -> int:
        """How many acknowledged instances, of whatever process, have no row yet."""
        found: set[tuple[str, str]] = set()
        for folder in (self._spool.older_journals, self._spool.journals):
            for journal in folder.glob("*"):
                with suppress(FileNotFoundError):  # its process has just ended
                    found |= {
                        (entry.arrival.sop_instance_uid, entry.sha256) for entry in _entries_of(journal)
                    }
        with self._database.snapshot() as session:
            known = versions_of(session, [uid for uid, _ in found])
        return sum(sha256 not in {version.sha256 for version in known[uid]} for uid, sha256 in found)

    def serve(self, channel: socket.socket, journal: Path) -> None:
        """Do what comes from a receiver, until it closes the channel."""
        with recording_alone(journal, RECORDING_PATIENCE_S) as is_ours:
            if is_ours:
                self._serve(channel, _Segments(journal))

    def _serve(self, channel: socket.socket, segments: _Segments) -> None:
        """The files of the next batch are made while the rows of this one are."""
        done, filing, begun = 0, list[Future[Filed]](), list[Future[Filed]]()
        orders = Orders(channel)
        if orders.is_up_to_date():
            mark_up_to_date(segments.journal)
        try:
            for batch in orders.batches():
                filing = begun or self._begin(batch, segments)
                begun = self._begin(orders.ahead(), segments)
                if not self._is_recorded(channel, filing, batch, segments):
                    log.error("acknowledged_instances_left_for_the_next_start", count=len(filing))
                    return
                freed = 0
                for order, place in batch:
                    if order is Order.FREE:
                        self._bring_to_disk(channel, segments.journal)
                        freed = place.segment
                done += len(batch)
                with suppress(BrokenPipeError):  # the receiver is gone, or has replaced this recorder
                    channel.sendall(REPORT.pack(done, freed))
                if orders.is_up_to_date():
                    mark_up_to_date(segments.journal)
        finally:
            wait(filing + begun)  # whoever records this journal next must not find them written to

    def _bring_to_disk(self, channel: socket.socket, journal: Path) -> None:
        """Sync the spool; what the system could not write is written again, for it tells so only once.

        Raises OSError when that fails and the receiver is gone: the next start does it.
        """
        may_be_lost = False
        while True:
            try:
                for entry in _entries_of(journal) if may_be_lost else ():
                    self._filed(entry)
                self._spool.sync()
            except OSError as error:
                log.error("files_not_on_the_disk", error=error.strerror)
                if _is_closed(channel):
                    raise
                may_be_lost = True
                time.sleep(RETRY_S)
            else:
                return

    def _begin(self, batch: Batch, segments: _Segments) -> list[Future[Filed]]:
        """Begin to make the files of what is to be recorded."""
        return [
            self._files.submit(lambda place: self._filed(segments.entry(place)), place)
            for order, place in batch
            if order is not Order.FREE
        ]

    def _is_recorded(
        self, channel: socket.socket, filing: list[Future[Filed]], batch: Batch, segments: _Segments
    ) -> bool:
        """Try until it works, or the receiver is gone: the next one waits for us, and does it itself."""
        again = any(order is Order.RECORD_AGAIN for order, _ in batch)
        while filing:
            try:
                mark_behind(segments.journal, filing[0].result().entry.received_at)
                self.write_down([one.result() for one in filing], again=again)
            except (OSError, SQLAlchemyError) as error:
                log.error(
                    "acknowledged_instances_not_recorded", count=len(filing), error=type(error).__name__
                )
                wait(filing)
                if _is_closed(channel):
                    return False
                time.sleep(RETRY_S)
                filing = self._begin(batch, segments)
            else:
                break
        return True

    def _filed(self, entry: Entry) -> Filed:
        """Place its file."""
        arrival, identity = entry.arrival, entry.identity
        path = self._spool.instance_path(
            identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid, entry.sha256
        )
        self._spool.place(path, arrival.file_header, arrival.encoded)
        return Filed(entry, path)


class _Segments:
    """Reads from the segments of one journal; from several threads."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._open: dict[int, int] = {}
        self._opening = threading.Lock()

    def entry(self, place: Place) -> Entry:
        """The entry at a place."""
        with self._opening:
            if place.segment not in self._open:
                self._open[place.segment] = os.open(segment_path(self.journal, place.segment), os.O_RDONLY)
        found = entry_at(self._open[place.segment], place.offset)
        if found is None:
            raise RuntimeError(f"no entry at {place}")
        return found[0]


def _is_closed(channel: socket.socket) -> bool:
    """Whether the other end is closed, though there may be something left to read."""
    end = poll()
    end.register(channel, POLLRDHUP)
    return bool(end.poll(0))


def _entries_of(journal: Path) -> Iterator[Entry]:
    for segment in sorted(journal.glob("*.journal")):
        yield from entries(segment)
        yield from older_entries(segment)


def _batches(found: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries that one transaction records: not too many, and none of the same instance."""
    batch: dict[str, Entry] = {}
    for entry in found:
        uid = entry.arrival.sop_instance_uid
        if uid in batch or len(batch) == MOST_RECOVERED_AT_ONCE:
            yield list(batch.values())
            batch = {}
        batch[uid] = entry
    if batch:
        yield list(batch.values())
