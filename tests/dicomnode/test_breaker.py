"""Peers that are away, reject us, fall silent or break off: what the outbox does, and how often it asks.

Hours pass by a clock that the test moves. Not covered: peers behind a network that swallows packets while
the connection is made (the system's own time-out, 10 s by ours).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

import dicomnode.deliver.sender
from dicomnode.deliver.breaker import probe_now
from dicomnode.deliver.delivery import Delivery
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.records.tables import DestinationRow
from dicomnode.selftest.temporary import free_port
from tests.dicomnode.faulty_line import Fault, faulty_line
from tests.dicomnode.outbox import Clock, Outbox, outbox_to
from tests.dicomnode.parts import Peer, abort, events, kinds, peer_answering, settings_in

pytestmark = pytest.mark.both_databases

QUARTER_H = 900.0
ASSOCIATION_BYTES = 227
"""The peer's A-ASSOCIATE-AC; a C-STORE response has 110 more."""
BOUND_S = 60.0
"""Far above every limit below, far below for ever: two busy cores are slow."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peer_answering() as found:
        yield found


@contextmanager
def impatient() -> Iterator[None]:
    """Limits of seconds, for peers that use them up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicomnode.deliver.sender, "CONNECTION_TIMEOUT_S", 1.0)
        patch.setattr(dicomnode.deliver.sender, "NEGOTIATION_LIMIT_S", 2.0)
        patch.setattr(dicomnode.deliver.sender, "LOWEST_RATE_BYTES_PER_S", 10_000_000)
        yield


def test_a_pacs_that_is_away_for_half_a_day_is_told_of_once_and_loses_nothing(
    database: Database, tmp_path: Path, clock: Clock, logs: list[Any]
) -> None:
    port = free_port()
    outbox = Outbox(settings_in(tmp_path, peer_port=port), database, tmp_path)
    for number in range(1, 31):
        outbox.add(f"1.{number}")
    outbox.run(12, clock, step_s=200.0)
    destination = outbox.destination()
    assert destination.state in ("open", "half_open")
    assert 40 < destination.failures < 120  # a probe every 7 to 15 minutes, not one every tick
    assert kinds(database) == ["destination_lost"]
    assert events(database)[0][1]["waiting_count"] == 30
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["destination_lost"]
    assert {(row.state, row.attempt) for row in outbox.rows()} == {("waiting", 0)}

    with peer_answering(port=port) as peer:
        outbox.run(0.5, clock)
        assert outbox.states() == ["delivered"] * 30
        assert peer.received == [f"1.{number}" for number in range(1, 31)]
    assert outbox.destination().state == "closed"
    (back,) = events(database, "destination_back")
    assert 11.5 * 3600 < back[1]["lost_s"] < 12.6 * 3600


def test_a_pacs_that_does_not_know_us_is_not_hammered(
    peer: Peer, database: Database, tmp_path: Path, clock: Clock, logs: list[Any]
) -> None:
    peer.rejecting = (1, 1, 3)  # calling AE title not recognized
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.push()
    assert outbox.destination().state == "open"
    outbox.run(6, clock, step_s=30.0)
    assert peer.associations <= 6 * 4 + 1
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["destination_lost"]
    assert "Calling AE title not recognised" in events(database, "destination_lost")[0][1]["reason"]
    assert outbox.rows()[0].attempt == 0


def test_a_rejection_that_may_pass_is_tried_a_few_times_before_the_alert(
    peer: Peer, database: Database, tmp_path: Path, clock: Clock
) -> None:
    peer.rejecting = (2, 3, 1)  # temporary congestion
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    for associations in (1, 2):
        outbox.push()
        outbox.push()
        assert peer.associations == associations
        assert (outbox.destination().state, kinds(database)) == ("closed", [])
        clock.advance(QUARTER_H)
    outbox.push()
    assert (outbox.destination().state, kinds(database)) == ("open", ["destination_lost"])
    peer.rejecting = None
    clock.advance(QUARTER_H)
    outbox.push()
    assert (outbox.states(), outbox.destination().state) == (["delivered"], "closed")


def test_one_object_alone_tries_whether_the_peer_is_back(
    peer: Peer, database: Database, tmp_path: Path, clock: Clock
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    for uid in ("1.1", "1.2", "1.3"):
        outbox.add(uid)
    with database.transaction() as session:
        session.add(DestinationRow(name="PACS", state="open", failures=7, reason="away", lost_at=clock.now))
    outbox.push()
    assert outbox.states() == ["delivered", "waiting", "waiting"]
    outbox.push()
    assert outbox.states() == ["delivered"] * 3


def test_a_restart_does_not_forget_that_a_destination_is_lost(
    peer: Peer, database: Database, tmp_path: Path, clock: Clock
) -> None:
    peer.rejecting = (1, 1, 7)
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.push()
    outbox.delivery = Delivery(outbox.settings, database)
    outbox.push()
    assert peer.associations == 1


def test_an_administrator_can_end_the_pause(
    peer: Peer, database: Database, tmp_path: Path, clock: Clock
) -> None:
    peer.rejecting = (1, 1, 3)
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.push()
    peer.rejecting = None
    outbox.push()
    assert outbox.states() == ["waiting"]
    with database.transaction() as session:
        assert probe_now(session, Audit("admin m.keller"), "PACS")
        assert not probe_now(session, Audit("admin m.keller"), "NEVER FAILED")
    assert events(database, "destination_replayed") == [("destination_replayed", {"destination": "PACS"})]
    outbox.push()
    assert outbox.states() == ["delivered"]


def test_an_object_that_makes_the_peer_abort_each_time_stops_no_other_and_ends_as_a_dead_letter(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    def refuses_one(event: Any) -> int:
        return abort(event) if event.request.AffectedSOPInstanceUID == "1.2" else 0x0000

    with peer_answering(*[refuses_one] * 1000) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        rules = outbox.settings.delivery.model_copy(update={"maximum_attempts": 5})
        outbox.delivery = Delivery(outbox.settings.model_copy(update={"delivery": rules}), database)
        for uid in ("1.1", "1.2", "1.3"):
            outbox.add(uid)
        outbox.run(3, clock)
        assert outbox.states() == ["delivered", "dead", "delivered"]
        outbox.add("1.4")
        outbox.run(1, clock)
        assert outbox.states()[-1] == "delivered"
        assert outbox.destination().state == "closed"


def test_objects_that_the_peer_has_no_room_for_are_no_failure_of_the_association(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    with peer_answering(*[0xA700] * 12) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        for uid in ("1.1", "1.2", "1.3"):
            outbox.add(uid)
        outbox.run(2, clock)
    assert outbox.states() == ["delivered"] * 3
    assert "destination_lost" not in kinds(database)


FAULTS = {
    "accepts the association and drops it": Fault(break_to_peer_after=4000),
    "falls silent after the association": Fault(stall_from_peer_after=ASSOCIATION_BYTES),
    "sends half an answer": Fault(stall_from_peer_after=ASSOCIATION_BYTES + 40),
    "never answers the association": Fault(stall_from_peer_after=0),
    "sends half of the association's answer": Fault(stall_from_peer_after=100),
    "answers byte by byte": Fault(drip_from_peer_s=0.2),
    "stops reading in the middle of an object": Fault(stall_to_peer_after=200_000),
    "breaks in the middle of an object": Fault(break_to_peer_after=200_000),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_peer_that_misbehaves_costs_bounded_time_and_gets_everything_when_it_is_well_again(
    peer: Peer, database: Database, tmp_path: Path, clock: Clock, fault: Fault
) -> None:
    with faulty_line(peer.port, fault) as line:
        outbox = outbox_to(None, database, tmp_path, peer_port=line.port, response_timeout_s=1.0)
        for uid in ("1.1", "1.2"):
            outbox.add(uid, size_bytes=12_000_000)
        started = time.monotonic()
        with impatient():
            outbox.push()
        assert time.monotonic() - started < BOUND_S
        assert outbox.states() == ["waiting", "waiting"]
        assert outbox.destination().failures == 1
        assert line.connections == 1
        line.fault = Fault()
        clock.advance(QUARTER_H)
        Delivery(settings_in(tmp_path, peer_port=line.port), database).push(outbox.settings.peers["PACS"])
    assert outbox.states() == ["delivered", "delivered"]
    assert outbox.rows()[1].attempt == 1


def test_what_the_database_could_not_take_down_is_sent_again_when_it_is_back(
    peer: Peer, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    for uid in ("1.1", "1.2"):
        outbox.add(uid)

    def is_locked(*_: object, **__: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr("dicomnode.deliver.delivery.settle", is_locked)
        with pytest.raises(OperationalError):
            outbox.push()
    assert "sending" in outbox.states()
    outbox.push()
    assert outbox.states() == ["delivered", "delivered"]
