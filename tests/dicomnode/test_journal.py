"""What was acknowledged and is not yet recorded: kept through crashes, recorded once.

Not covered: a real loss of power; tests/crash/test_durability.py looks at the order of system calls instead.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import sqlite3
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from datetime import datetime
from errno import EAGAIN, EIO, ENOSPC
from functools import partial
from pathlib import Path
from socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RDWR, SHUT_WR, socket, socketpair

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from dicomnode.errors import PermanentError
from dicomnode.housekeeping import Housekeeping
from dicomnode.mounts import Mount
from dicomnode.receive.acknowledging import Acknowledging, recorder_in_a_thread
from dicomnode.receive.arrival import identify
from dicomnode.receive.behind import recorded_until
from dicomnode.receive.draft import PAGE_BYTES, Draft, Pages, draft_of
from dicomnode.receive.entries import Entry, entries, entry_at
from dicomnode.receive.intake import Intake, Outcome
from dicomnode.receive.journal import PIECE_BYTES, Ahead, Journal, NoRoom, Place, segment_path
from dicomnode.receive.orders import MOST_FULL, ORDER, Order, Orders
from dicomnode.receive.ownership import LOCK, new_name
from dicomnode.receive.recorder import Filed, Recorder
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import InstanceRow
from dicomnode.spool import Spool
from inference.registry import Registry
from tests.dicomnode.parts import arrival, image, kinds, settings_in, wait_until

WAIT_S = 60.0
SEGMENT_BYTES = 2**20


def entry(**attributes: object) -> Entry:
    """An entry of an image of its own."""
    found = arrival(image(**attributes))
    return Entry(found, identify(found), utc_now())


def append(journal: Journal, *found: Entry) -> tuple[list[Place], list[int]]:
    places: list[Place] = []
    full: list[int] = []
    for one in found:
        journal.append(one, places.append, full.append)
    return places, full


def raise_(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk does not count as a full journal here."""
    monkeypatch.setattr("dicomnode.receive.journal.ROOM_TIMEOUT_S", WAIT_S)


@pytest.fixture
def journal(spool: Spool) -> Journal:
    return Journal(spool.journals / "one", SEGMENT_BYTES)


@pytest.fixture
def recorder(spool: Spool, database: Database) -> Recorder:
    return Recorder(spool, database, Audit("receiver"))


def rows(database: Database) -> list[InstanceRow]:
    with database.snapshot() as session:
        return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


def test_what_goes_in_comes_out_in_order(journal: Journal, spool: Spool) -> None:
    sent = [entry(), entry(PatientName="Łękawski^Jan"), entry(PixelData=bytes(50_000))]
    places, _ = append(journal, *sent)
    assert [place.segment for place in places] == [1, 1, 1]
    assert list(entries(segment_path(spool.journals / "one", 1))) == sent


def test_only_the_entries_of_the_present_use_of_a_segment_count(
    journal: Journal, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.journal.MOST_SEGMENTS", 2)  # no third one, however long this takes
    large = {"PixelData": bytes(120_000)}
    places, full = append(journal, *(entry(**large) for _ in range(9)))
    assert full == [1]
    assert places[-1].segment == 2
    journal.free(1)
    last = [entry(**large) for _ in range(8)]
    append(journal, *last)
    assert list(entries(segment_path(spool.journals / "one", 1))) == [last[-1]]


def test_a_segment_that_is_not_free_is_never_written_over(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.journal.MOST_SEGMENTS", 2)
    monkeypatch.setattr("dicomnode.receive.journal.ROOM_TIMEOUT_S", 0.1)
    with pytest.raises(NoRoom, match="not recorded in time"):
        append(journal, *(entry(PixelData=bytes(120_000)) for _ in range(17)))


def test_two_that_wait_for_the_same_free_segment_share_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.journal.MOST_SEGMENTS", 2)
    large = {"PixelData": bytes(120_000)}
    append(journal, *(entry(**large) for _ in range(16)))
    waiting: list[int] = []
    places: list[Place] = []
    full: list[int] = []
    wait_for = journal._lock.wait_for

    def wait_and_tell(condition: Callable[[], object], timeout: float | None = None) -> object:
        waiting.append(1)
        return wait_for(condition, timeout)

    monkeypatch.setattr("dicomnode.receive.journal.ROOM_TIMEOUT_S", WAIT_S)
    monkeypatch.setattr(journal._lock, "wait_for", wait_and_tell)
    both = [
        threading.Thread(target=journal.append, args=(entry(**large), places.append, full.append))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    wait_until(lambda: len(waiting) == 2, WAIT_S)
    journal.free(1)
    for one in both:
        one.join(WAIT_S)
    assert [place.segment for place in places] == [1, 1]
    assert full == [2]


@settings(max_examples=60, deadline=None)
@given(damage=st.integers(PAGE_BYTES, 3 * 8192 - 1 + PAGE_BYTES), value=st.integers(0, 255))
def test_a_damaged_entry_is_not_taken_for_one_and_hides_no_other(
    tmp_path_factory: pytest.TempPathFactory, damage: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("journal") / "one"
    sent = [entry(PixelData=bytes(5000)) for _ in range(3)]
    places, _ = append(Journal(folder, SEGMENT_BYTES), *sent)
    path = segment_path(folder, 1)
    content = bytearray(path.read_bytes())
    content[damage] = value
    path.write_bytes(content)
    damaged = sent[(damage - places[0].offset) // 8192]
    found = list(entries(path))
    assert found in (sent, [one for one in sent if one is not damaged])


def test_a_large_image_is_written_as_it_comes_and_read_as_one(journal: Journal, spool: Spool) -> None:
    large, between = entry(PixelData=os.urandom(2 * PIECE_BYTES)), entry()
    draft, ahead = Draft(Pages(), large.arrival.file_header), Ahead()
    places: list[Place] = []
    for at in range(0, len(large.arrival.encoded), 50_000):
        draft.add(large.arrival.encoded[at : at + 50_000])
        journal.write_ahead(draft, ahead)
        if at == 500_000:
            append(journal, between)
    assert len(ahead.pieces) == 2
    path = segment_path(spool.journals / "one", 1)
    assert list(entries(path)) == [between], "it is not whole yet"
    journal.append(large, places.append, raise_(AssertionError("no segment is full")), draft, ahead)
    assert list(entries(path)) == [between, large]


def test_a_segment_is_not_done_with_while_a_large_image_arrives_in_it(journal: Journal, spool: Spool) -> None:
    large = entry(PixelData=os.urandom(2 * PIECE_BYTES))
    draft, ahead = draft_of(large.arrival), Ahead()
    journal.write_ahead(draft, ahead)
    _, full = append(journal, *(entry(PixelData=bytes(120_000)) for _ in range(8)))
    assert full == []
    journal.append(large, lambda _: None, full.append, draft, ahead)
    assert full == [1]
    assert large in list(entries(segment_path(spool.journals / "one", 1)))


def test_a_large_image_whose_segment_is_full_meanwhile_goes_to_the_next_one(
    journal: Journal, spool: Spool
) -> None:
    large = entry(PixelData=os.urandom(2 * PIECE_BYTES + 100_000))
    draft, ahead = draft_of(large.arrival), Ahead()
    journal.write_ahead(draft, ahead)
    places, full = append(journal, entry())
    while places[-1].segment == 1:
        places, full = append(journal, entry(PixelData=bytes(60_000)))
    journal.append(large, places.append, full.append, draft, ahead)
    assert (full, places[-1].segment) == ([1], 2)
    assert list(entries(segment_path(spool.journals / "one", 2)))[-1] == large


def test_an_image_that_never_becomes_whole_holds_up_no_segment(
    journal: Journal,
) -> None:
    ahead = Ahead()
    journal.write_ahead(draft_of(arrival(image(PixelData=os.urandom(2 * PIECE_BYTES)))), ahead)
    journal.forget(ahead)
    _, full = append(journal, *(entry(PixelData=bytes(120_000)) for _ in range(8)))
    assert full == [1]


@settings(deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_the_checksum_of_a_draft_is_the_crc_32_of_all_versions(header: bytes, encoded: bytes) -> None:
    draft = Draft(Pages(), header)
    draft.add(encoded)
    assert draft.crc32 == zlib.crc32(header + encoded)


def test_a_sender_cannot_forge_an_entry(journal: Journal, spool: Spool) -> None:
    append(journal, forged := entry())
    path = segment_path(spool.journals / "one", 1)
    pixels = bytes(PAGE_BYTES) + path.read_bytes()[PAGE_BYTES : 3 * PAGE_BYTES]
    other = Journal(spool.journals / "two", SEGMENT_BYTES)
    draft, ahead = Draft(Pages(), b""), Ahead()
    draft.add(pixels.ljust(PIECE_BYTES))
    other.write_ahead(draft, ahead)
    wait(ahead.writing)
    theirs = segment_path(spool.journals / "two", 1)
    assert entry_at(os.open(theirs, os.O_RDONLY), ahead.pieces[0][0] + PAGE_BYTES) is not None, (
        "but for its mark"
    )
    assert list(entries(theirs)) == []
    assert list(entries(path)) == [forged]


def test_an_upgrade_finds_what_the_version_before_had_acknowledged(
    recorder: Recorder, spool: Spool, database: Database
) -> None:
    sent = [entry(PixelData=bytes(size)) for size in (10, 50_000, 4096)]
    left = spool.older_journals / "elsewhere-1-00000000"
    left.mkdir(parents=True)
    (left / LOCK).touch()
    mark = os.urandom(16)
    content = b"".join(_as_before(one, mark) for one in sent) + _as_before(entry(), os.urandom(16))
    segment_path(left, 1).write_bytes(content + bytes(SEGMENT_BYTES))
    assert recorder.unrecorded() == 3
    assert recorder.recover() == 3
    assert [(row.sha256, row.received_at) for row in rows(database)] == [
        (one.sha256, one.received_at) for one in sent
    ]
    assert list(spool.older_journals.iterdir()) == []


def _as_before(one: Entry, mark: bytes) -> bytes:
    """An entry as the version before wrote it."""
    arrival = one.arrival
    told = json.dumps(
        {
            "identity": vars(one.identity),
            "origin": vars(arrival.origin),
            "sop_class_uid": arrival.sop_class_uid,
            "sop_instance_uid": arrival.sop_instance_uid,
            "transfer_syntax_uid": arrival.transfer_syntax_uid,
            "header_bytes": len(arrival.file_header),
            "header_crc32": zlib.crc32(arrival.file_header),
            "sha256": arrival.sha256,
            "received_at": one.received_at.isoformat(),
        }
    ).encode()
    file = arrival.file_header + bytes(arrival.encoded)
    head = struct.pack("<8s16sLLQ", b"dcmjrnl1", mark, zlib.crc32(told), len(told), len(file))
    content = head + told + file
    return content + bytes(-len(content) % 4096)


def test_nothing_is_told_of_before_it_is_synchronised(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending: set[int] = set()
    lock, fdatasync, pwrite = threading.Lock(), os.fdatasync, os.pwrite

    def write(descriptor: int, sheet: memoryview, offset: int) -> int:
        with lock:
            pending.add(offset)
        return pwrite(descriptor, sheet, offset)

    def sync(descriptor: int) -> None:
        with lock:
            before = set(pending)
        fdatasync(descriptor)
        with lock:
            pending.difference_update(before)

    early: list[Place] = []

    def tell(place: Place) -> None:
        with lock:
            if place.offset in pending:
                early.append(place)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fdatasync", sync)
    sent = [entry() for _ in range(40)]

    def append_all(part: list[Entry]) -> None:
        for one in part:
            journal.append(one, tell, lambda _: None)

    threads = [threading.Thread(target=append_all, args=(sent[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (early, pending) == ([], set())


def test_what_a_killed_process_had_acknowledged_is_recorded_at_the_next_start_once(
    journal: Journal, recorder: Recorder, spool: Spool, database: Database
) -> None:
    sent = [entry() for _ in range(3)]
    append(journal, *sent)
    recorder.record(sent[:1])
    assert recorder.unrecorded() == 2
    assert recorder.recover() == 0, "its process still lives"
    journal.close(is_done=False)
    Path(rows(database)[0].path).write_bytes(b"torn by a loss of power")
    assert recorder.recover() == 3
    assert kinds(database) == ["instance_received"] * 3
    for row, one in zip(rows(database), sent, strict=True):
        assert Path(row.path).read_bytes() == one.arrival.file_header + one.arrival.encoded
        assert (row.sha256, row.received_at) == (one.sha256, one.received_at)
    assert list(spool.journals.iterdir()) == []
    assert (recorder.recover(), recorder.unrecorded()) == (0, 0)


def test_a_recorder_that_outlives_its_receiver_and_the_next_start_record_each_image_once(
    journal: Journal, spool: Spool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, _ = append(journal, *(entry() for _ in range(3)))
    in_the_middle, go_on, place = threading.Event(), threading.Event(), spool.place

    def place_later(path: Path, *parts: bytes | memoryview) -> None:
        in_the_middle.set()
        assert go_on.wait(WAIT_S)
        place(path, *parts)

    orphan_spool = Spool(spool.folder)
    monkeypatch.setattr(orphan_spool, "place", place_later)
    orphan = Recorder(orphan_spool, database, Audit("receiver"))
    ours, its = socketpair()
    orphaned = threading.Thread(target=orphan.serve, args=(its, spool.journals / "one"))
    orphaned.start()
    for at in places:
        ours.sendall(ORDER.pack(at.segment, Order.RECORD, at.offset))
    assert in_the_middle.wait(WAIT_S)
    ours.close()
    journal.close(is_done=False)
    beside = Journal(spool.journals / "two", SEGMENT_BYTES)
    append(beside, entry())
    beside.close(is_done=False)
    looked: list[int] = []
    refused: list[int] = []
    lock = fcntl.flock

    def look(descriptor: int, how: int) -> None:
        try:
            lock(descriptor, how)
        except BlockingIOError:
            refused.append(descriptor)
            raise

    monkeypatch.setattr(fcntl, "flock", look)
    next_start = Recorder(spool, database, Audit("receiver"))
    assert next_start.recover() == 1, "another journal does not wait for the one that is being recorded"
    assert len(refused) == 1
    recovering = threading.Thread(target=lambda: looked.append(next_start.recover(WAIT_S)))
    recovering.start()
    wait_until(lambda: len(refused) > 1 or not recovering.is_alive(), WAIT_S)
    go_on.set()
    orphaned.join(WAIT_S)
    recovering.join(WAIT_S)
    assert looked == [3]
    assert kinds(database) == ["instance_received"] * 4
    assert list(spool.journals.iterdir()) == []


def test_a_recorder_whose_receiver_is_gone_leaves_to_the_next_start_what_it_cannot_record(
    journal: Journal, recorder: Recorder, spool: Spool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at,), _ = append(journal, entry())
    ours, its = socketpair()
    ours.sendall(ORDER.pack(at.segment, Order.RECORD, at.offset))
    ours.close()
    with monkeypatch.context() as broken:
        broken.setattr(spool, "place", raise_(OSError(ENOSPC, "no space left")))
        recorder.serve(its, spool.journals / "one")
    assert kinds(database) == []
    journal.close(is_done=False)
    assert recorder.recover() == 1
    assert kinds(database) == ["instance_received"]


def test_files_of_the_next_batch_are_made_while_rows_of_this_one_are(
    journal: Journal, recorder: Recorder, spool: Spool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.orders.MOST_AT_ONCE", 2)
    places, _ = append(journal, *(entry() for _ in range(5)))
    files_at_first_rows: list[bool] = []
    known_until: list[datetime] = []
    write_down = recorder.write_down

    def look(found: Sequence[Filed], *, again: bool) -> None:
        if not files_at_first_rows:
            wait_until(lambda: len(list(spool.files())) == 4, WAIT_S)
            files_at_first_rows.append(True)
        known_until.append(recorded_until(spool.journals, utc_now()))
        write_down(found, again=again)

    monkeypatch.setattr(recorder, "write_down", look)
    ours, its = socketpair()
    ours.sendall(b"".join(ORDER.pack(at.segment, Order.RECORD, at.offset) for at in places))
    ours.shutdown(SHUT_WR)
    recorder.serve(its, spool.journals / "one")
    assert files_at_first_rows and len(rows(database)) == 5
    assert known_until == [row.received_at for row in rows(database)][::2], (
        "others may think that all is known"
    )
    now = utc_now()
    assert recorded_until(spool.journals, now) == now
    ours.close()


def test_a_recorder_that_gives_up_leaves_no_file_unfinished(
    journal: Journal, recorder: Recorder, spool: Spool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had begun must not be written over what the next one has brought to the disk."""
    monkeypatch.setattr("dicomnode.receive.orders.MOST_AT_ONCE", 1)
    places, _ = append(journal, entry(), entry())
    ours, its = socketpair()
    ours.sendall(b"".join(ORDER.pack(at.segment, Order.RECORD, at.offset) for at in places))
    ours.close()
    place, given_up = spool.place, threading.Event()

    def place_late(path: Path, *parts: bytes | memoryview) -> None:
        assert given_up.wait(WAIT_S)
        place(path, *parts)

    def give_up(found: object, *, again: bool) -> None:
        raise OSError(ENOSPC, "no space left")

    def filed_first(found: Entry) -> Filed:
        return Filed(found, spool.folder) if first and first.pop() else filed(found)

    first, filed = [True], recorder._filed
    monkeypatch.setattr(spool, "place", place_late)
    monkeypatch.setattr(recorder, "_filed", filed_first)
    monkeypatch.setattr(recorder, "write_down", give_up)
    serving = threading.Thread(target=recorder.serve, args=(its, spool.journals / "one"))
    serving.start()
    serving.join(0.5)
    assert serving.is_alive(), "it has left while a file was being made"
    given_up.set()
    serving.join(WAIT_S)
    assert len(list(spool.files())) == 1


def test_what_streams_in_is_gathered_until_somebody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.receive.orders.PAUSE_S", WAIT_S)
    monkeypatch.setattr("dicomnode.receive.orders.LONGEST_S", WAIT_S)
    batches: list[list[tuple[Order, Place]]] = []
    ours, its = socketpair()
    recording = threading.Thread(target=lambda: batches.extend(Orders(its).batches()))
    recording.start()
    sent = [(Order.RECORD, Place(1, 4096 * number)) for number in range(3)]
    for order, place in sent:
        ours.sendall(ORDER.pack(place.segment, order, place.offset))
        wait_until(lambda: not _unread(its), WAIT_S)
    assert batches == [], "images may still stream in"
    ours.sendall(ORDER.pack(0, Order.HURRY, 0))
    wait_until(lambda: batches == [sent], WAIT_S)
    ours.close()
    recording.join(WAIT_S)
    assert batches == [sent]


def test_what_came_meanwhile_is_due_at_once_where_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.receive.orders.PAUSE_S", 0.0)
    first, second, third = ((Order.RECORD, Place(1, 4096 * number)) for number in range(3))
    ours, its = socketpair()

    def say(*orders: tuple[Order, Place]) -> None:
        ours.sendall(b"".join(ORDER.pack(place.segment, order, place.offset) for order, place in orders))

    with ours:
        orders = Orders(its)
        say(first)
        batches = orders.batches()
        assert next(batches) == [first]
        say(second)
        assert orders.ahead() == [], "nobody waits: it is gathered with what follows"
        assert not orders.is_up_to_date()
        say(third, (Order.HURRY, Place(0, 0)))
        assert orders.ahead() == [second, third]
        assert next(batches) == [second, third]
        assert orders.is_up_to_date()
        monkeypatch.setattr("dicomnode.receive.orders.PAUSE_S", 1000 * WAIT_S)
        monkeypatch.setattr("dicomnode.receive.orders.LONGEST_S", 1000 * WAIT_S)
        say(first, (Order.HURRY, Place(0, 0)))
        assert not orders.is_up_to_date(), "it came while a batch was recorded"
        assert next(batches) == [first], "somebody waits: it is not gathered with what follows"


@pytest.mark.parametrize("limit", ["PAUSE_S", "LONGEST_S", "MOST_FULL"])
def test_what_streams_in_is_not_waited_with_without_end(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_S", "LONGEST_S"):
        monkeypatch.setattr(f"dicomnode.receive.orders.{name}", 0.1 if name == limit else 1000 * WAIT_S)
    once = [(Order.RECORD, Place(1, 0)), (Order.FREE, Place(1, 0))]
    sent = once * (MOST_FULL if limit == "MOST_FULL" else 1)
    ours, its = socketpair()
    with ours:
        ours.sendall(b"".join(ORDER.pack(place.segment, order, place.offset) for order, place in sent))
        assert next(Orders(its).batches()) == once


def _unread(channel: socket) -> bytes:
    try:
        return channel.recv(1, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize(
    ("mount", "recovered"),
    [(Mount("nfs4"), 1), (Mount("nfs", frozenset({"nolock"})), 0), (Mount("fuse.sshfs"), 0)],
)
def test_the_journal_of_another_machine_is_recorded_where_locks_tell_that_it_is_gone(
    spool: Spool, recorder: Recorder, mount: Mount, recovered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.ownership.mount_of", lambda _: mount)
    theirs = Journal(spool.journals / "elsewhere-1-00000000", SEGMENT_BYTES)
    append(theirs, entry())
    theirs.close(is_done=False)
    ours = Journal(spool.journals / new_name(), SEGMENT_BYTES)
    append(ours, entry())
    ours.close(is_done=False)
    assert recorder.recover() == 1 + recovered
    assert recorder.unrecorded() == 1 - recovered


def test_a_journal_that_is_removed_while_it_is_made_is_made_again(
    spool: Spool, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def after_somebody_looked(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        assert recorder.recover() == 0
        lock(descriptor, how)

    spool.prepare()
    monkeypatch.setattr(fcntl, "flock", after_somebody_looked)
    journal = Journal(spool.journals / new_name(), SEGMENT_BYTES)
    append(journal, entry())
    assert recorder.recover() == 0, "it is its own"
    assert recorder.unrecorded() == 1


def test_housekeeping_takes_over_what_a_receiver_left_that_nobody_starts_again(
    tmp_path: Path, database: Database
) -> None:
    here = settings_in(tmp_path)
    journal = Journal(Spool(here.spool).journals / "elsewhere-1-00000000", SEGMENT_BYTES)
    append(journal, entry())
    journal.close(is_done=False)
    housekeeping = Housekeeping(here, database, Registry(here.models.folder, frozenset()))
    ticks = {name: work for name, work, _ in housekeeping.ticks()}
    ticks["take over"]()
    assert kinds(database) == ["instance_received"]


@pytest.fixture
def acknowledging(spool: Spool, database: Database, intake: Intake) -> Iterator[Acknowledging]:
    audit = Audit("receiver")
    found = Acknowledging(spool, database, intake, recorder_in_a_thread(spool, database, audit))
    yield found
    found.close()


def test_the_same_image_on_many_associations_at_once_is_new_once(
    acknowledging: Acknowledging, database: Database
) -> None:
    sent, outcomes = arrival(image()), []
    threads = [threading.Thread(target=lambda: outcomes.append(acknowledging.take(sent))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Outcome.NEW, *[Outcome.REPEATED] * 5]
    assert kinds(database) == ["instance_received", *["instance_repeated"] * 5]


def test_nobody_thinks_that_all_is_known_before_the_recorder_runs(
    spool: Spool, database: Database, intake: Intake
) -> None:
    plainly, serve = recorder_in_a_thread(spool, database, Audit("receiver")), list[Callable[[], None]]()

    def start_later(channel: socket, journal: Path) -> Callable[[], None]:
        serve.append(lambda: serve.append(plainly(channel, journal)))
        return lambda: serve[1]()

    acknowledging = Acknowledging(spool, database, intake, start_later)
    acknowledging.open()
    opened = utc_now()
    assert acknowledging.take(arrival(image())) is Outcome.NEW
    assert recorded_until(spool.journals, utc_now()) <= opened
    serve[0]()
    acknowledging.flush()
    wait_until(lambda: recorded_until(spool.journals, now := utc_now()) == now, WAIT_S)
    acknowledging.close()


def test_other_content_under_a_uid_that_is_only_acknowledged_is_an_altered_version(
    acknowledging: Acknowledging, database: Database
) -> None:
    sent = image()
    assert acknowledging.take(arrival(sent)) is Outcome.NEW
    sent.SeriesDescription = "Corrected"
    assert acknowledging.take(arrival(sent)) is Outcome.ALTERED
    assert [row.version for row in rows(database)] == [1, 2]


def test_a_journal_without_room_is_not_waited_for_with_each_fragment(
    acknowledging: Acknowledging, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def write_ahead(_: Journal, draft: Draft, __: Ahead) -> None:
        tried.append(draft.size_bytes)
        raise NoRoom

    acknowledging.open()
    monkeypatch.setattr(Journal, "write_ahead", write_ahead)
    draft, ahead = Draft(Pages(), b""), Ahead()
    for _ in range(3):
        draft.add(bytes(PIECE_BYTES))
        acknowledging.write_ahead("1.2.3", draft, ahead)
    assert tried == [PIECE_BYTES]


def test_what_is_known_already_is_not_written_ahead(acknowledging: Acknowledging) -> None:
    sent = arrival(image(PixelData=os.urandom(PIECE_BYTES)))
    draft, again, new = draft_of(sent), Ahead(), Ahead()
    acknowledging.open()
    acknowledging.write_ahead("1.2.3", draft, new)
    assert acknowledging.take(sent) is Outcome.NEW
    acknowledging.write_ahead(sent.sop_instance_uid, draft, again)
    assert (len(again.pieces), len(new.pieces)) == (0, 1)
    acknowledging.forget(new)
    assert acknowledging.take(sent, draft, again) is Outcome.REPEATED


def test_a_malformed_uid_is_refused_and_leaves_its_uid_free(acknowledging: Acknowledging) -> None:
    sent = image(StudyInstanceUID="../../etc")
    with pytest.raises(PermanentError, match="is not a UID"):
        acknowledging.take(arrival(sent))
    sent.StudyInstanceUID = "1.2.3"
    assert acknowledging.take(arrival(sent)) is Outcome.NEW


def test_a_recorder_that_dies_is_replaced_and_nothing_is_recorded_twice_or_lost(
    spool: Spool, database: Database, intake: Intake
) -> None:
    audit, channels = Audit("receiver"), []
    plainly = recorder_in_a_thread(spool, database, audit)

    def start(channel: socket, journal: Path) -> Callable[[], None]:
        channels.append(channel)
        return plainly(channel, journal)

    acknowledging = Acknowledging(spool, database, intake, start)
    sent = [arrival(image()) for _ in range(30)]
    for number, one in enumerate(sent):
        assert acknowledging.take(one) is Outcome.NEW
        if number in (5, 20):
            count = len(channels)
            channels[-1].shutdown(SHUT_RDWR)
            wait_until(partial(lambda before: len(channels) > before, count), WAIT_S)
    acknowledging.close()
    assert kinds(database) == ["instance_received"] * 30
    assert len(rows(database)) == 30
    assert list(spool.journals.iterdir()) == []


def test_what_is_answered_while_the_journal_is_being_closed_is_not_lost(
    spool: Spool, database: Database, intake: Intake
) -> None:
    """By an association that outlives its listener."""
    plainly, outcomes = recorder_in_a_thread(spool, database, Audit("receiver")), list[Outcome]()
    closing: Acknowledging

    def start(channel: socket, journal: Path) -> Callable[[], None]:
        wait = plainly(channel, journal)

        def take_one_more() -> None:
            wait()
            outcomes.append(closing.take(arrival(image())))

        return take_one_more

    closing = Acknowledging(spool, database, intake, start)
    assert closing.take(arrival(image())) is Outcome.NEW
    closing.close()
    assert outcomes == [Outcome.NEW]
    assert list(spool.journals.iterdir()) == []
    assert len(rows(database)) == 2


def test_nothing_is_written_to_a_file_that_got_the_number_of_a_closed_segment(
    acknowledging: Acknowledging, tmp_path: Path
) -> None:
    acknowledging.take(arrival(image()))
    acknowledging.close()
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    descriptors = [os.open(other, os.O_RDWR) for _ in range(40)]
    try:
        assert acknowledging.take(arrival(image())) is Outcome.NEW
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert other.read_bytes() == b"precious"


def test_images_are_taken_while_nothing_can_be_recorded(
    acknowledging: Acknowledging, database: Database
) -> None:
    """More than a channel holds: nobody waits for a recorder that does not read."""
    acknowledging.take(arrival(image()))
    acknowledging.flush()
    other = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # what is read is read on
    sent = [arrival(image()) for _ in range(600)]
    taking = threading.Thread(target=lambda: [acknowledging.take(one) for one in sent], daemon=True)
    taking.start()
    taking.join(WAIT_S / 2)
    assert not taking.is_alive()
    other.execute("ROLLBACK")
    other.close()
    acknowledging.flush()
    assert len(rows(database)) == 601


def test_a_recorder_that_cannot_be_started_is_started_later(
    spool: Spool, database: Database, intake: Intake
) -> None:
    plainly, begun = recorder_in_a_thread(spool, database, Audit("receiver")), list[socket]()

    def start(channel: socket, journal: Path) -> Callable[[], None]:
        begun.append(channel)
        if len(begun) == 1:
            return lambda: None
        if len(begun) == 2:
            raise OSError(EAGAIN, "no process left")
        return plainly(channel, journal)

    acknowledging = Acknowledging(spool, database, intake, start)
    assert acknowledging.take(arrival(image())) is Outcome.NEW
    begun[0].close()
    wait_until(lambda: len(begun) == 3, WAIT_S)
    assert acknowledging.take(arrival(image())) is Outcome.NEW
    acknowledging.close()
    assert len(rows(database)) == 2


def test_what_the_disk_lost_is_written_again_before_its_segment_is_free(
    spool: Spool, database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of a failed write-back once, and drops what it could not write."""
    monkeypatch.setattr(
        "dicomnode.receive.acknowledging.Journal", lambda folder: Journal(folder, SEGMENT_BYTES)
    )
    monkeypatch.setattr("dicomnode.receive.recorder.RETRY_S", 0.01)
    sync, calls = Spool.sync, list[int]()

    def fail_once(found: Spool) -> None:
        calls.append(1)
        if len(calls) == 1:
            for file in found.files():
                file.write_bytes(b"")
            raise OSError(EIO, "Input/output error")
        sync(found)

    monkeypatch.setattr(Spool, "sync", fail_once)
    acknowledging = Acknowledging(
        spool, database, intake, recorder_in_a_thread(spool, database, Audit("receiver"))
    )
    while len(calls) < 2:
        acknowledging.take(arrival(image(PixelData=bytes(120_000))))
        acknowledging.flush()
    acknowledging.close()
    assert all(Path(row.path).stat().st_size > 120_000 for row in rows(database))


@pytest.mark.parametrize("words", ["a surrogate", "no index takes it"])
@pytest.mark.both_databases
def test_no_identity_stops_the_recording_of_others(
    acknowledging: Acknowledging, database: Database, words: str
) -> None:
    chance = random.Random(1)
    odd = arrival(image(SpecificCharacterSet="ISO_IR 100", PatientID="ABCDEFGH", StudyInstanceUID="1.2.9"))
    if words == "a surrogate":
        encoded = bytes(odd.encoded).replace(b"CS\x0a\x00ISO_IR 100", b"CS\x0a\x00utf-7     ")
        odd = replace(odd, encoded=encoded.replace(b"ABCDEFGH", b"\xff+2AA-  "))
    else:
        odd = arrival(image(PatientID=chance.randbytes(3000).hex(), StudyInstanceUID="1.2.9"))
    for one in (odd, arrival(image())):
        assert acknowledging.take(one) is Outcome.NEW
    acknowledging.flush()
    assert len(rows(database)) == 2


def test_a_disk_without_room_for_a_journal_takes_images_all_the_same(
    acknowledging: Acknowledging, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.journal.LEAST_FREE_SEGMENTS", 10**9)
    assert acknowledging.take(arrival(image())) is Outcome.NEW
    assert len(rows(database)) == 1
