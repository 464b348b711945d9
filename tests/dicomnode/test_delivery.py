"""The outbox against real peers that answer as told.

Not covered: a peer behind a network that swallows packets (the connection timeout of 10 s is not waited for).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

import dicomnode.deliver.sender
from dicomnode.deliver.answers import Fate, fate_of
from dicomnode.deliver.breaker import retry_delay_s
from dicomnode.deliver.delivery import Delivery, replay_delivery
from dicomnode.deliver.sender import echo, send
from dicomnode.errors import TransientError
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow
from dicomnode.settings.node import DeliverySettings
from tests.dicomnode.outbox import outbox_to
from tests.dicomnode.parts import (
    Answer,
    Peer,
    abort,
    events,
    image,
    kinds,
    peer_answering,
    save,
    settings_in,
    sleep_long,
)

pytestmark = pytest.mark.both_databases


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peer_answering() as found:
        yield found


def test_results_are_sent_in_the_order_in_which_they_were_made(
    peer: Peer, database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    for uid in ("1.9", "1.1", "1.5"):
        outbox.add(uid)
    outbox.push()
    assert peer.received == ["1.9", "1.1", "1.5"]
    assert peer.associations == 1
    assert outbox.states() == ["delivered"] * 3
    assert all(row.delivered_at and row.last_status == "0000" for row in outbox.rows())
    assert kinds(database) == ["result_delivered"] * 3


@pytest.mark.parametrize(
    ("answer", "state", "status"),
    [
        (0x0000, "delivered", "0000"),
        (0xB000, "delivered", "B000"),
        (0xB006, "delivered", "B006"),
        (0xB007, "delivered", "B007"),
        (0xB123, "delivered", "B123"),
        (0xA700, "waiting", "A700"),
        (0xA702, "waiting", "A702"),
        (0x0110, "waiting", "0110"),
        (0xA900, "dead", "A900"),
        (0xC000, "dead", "C000"),
        (0x0122, "dead", "0122"),
        (0x0124, "dead", "0124"),
    ],
)
def test_the_status_decides_about_one_object_and_no_other(
    database: Database, tmp_path: Path, answer: int, state: str, status: str
) -> None:
    with peer_answering(0x0000, answer) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        for uid in ("1.1", "1.2", "1.3"):
            outbox.add(uid)
        outbox.push()
    assert outbox.states() == ["delivered", state, "delivered"]
    assert outbox.rows()[1].last_status == status


@pytest.mark.parametrize("answer", [abort, sleep_long])
def test_when_the_association_breaks_what_was_sent_stays_sent_and_the_rest_waits(
    database: Database, tmp_path: Path, answer: Answer
) -> None:
    with peer_answering(0x0000, answer) as peer:
        outbox = outbox_to(peer, database, tmp_path, response_timeout_s=1.0)
        for uid in ("1.1", "1.2", "1.3"):
            outbox.add(uid)
        outbox.push()
        assert outbox.states() == ["delivered", "waiting", "waiting"]
        assert [row.attempt for row in outbox.rows()] == [1, 1, 0]
        outbox.end_pauses()
        outbox.push()
    assert outbox.states() == ["delivered"] * 3
    assert peer.received[:1] + peer.received[-2:] == ["1.1", "1.2", "1.3"]


def test_an_object_whose_class_the_peer_does_not_take_is_given_up_and_the_others_go(
    database: Database, tmp_path: Path
) -> None:
    with peer_answering(sop_classes=[MRImageStorage]) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        outbox.add("1.1", CTImageStorage)
        outbox.add("1.2", MRImageStorage)
        outbox.push()
    assert outbox.states() == ["dead", "delivered"]
    assert outbox.rows()[0].last_status is not None


def test_a_peer_that_takes_no_class_of_ours_gives_a_dead_letter_not_endless_tries(
    database: Database, tmp_path: Path
) -> None:
    with peer_answering(sop_classes=[MRImageStorage]) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        outbox.add("1.1", CTImageStorage)
        outbox.push()
    assert outbox.states() == ["dead"]


def test_a_file_that_is_gone_or_broken_holds_up_no_other(
    peer: Peer, database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1").unlink()
    outbox.add("1.2").write_bytes(b"not DICOM")
    outbox.add("1.3")
    outbox.push()
    states = outbox.states()
    assert states[2] == "delivered"
    assert "delivered" not in states[:2]
    assert "sending" not in states


def test_a_result_whose_file_was_damaged_on_the_disk_is_not_sent(
    peer: Peer, database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    damaged = outbox.add("1.1")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1  # one bit of a pixel: still a DICOM file
    damaged.write_bytes(content)
    outbox.add("1.2")
    outbox.push()
    assert outbox.states() == ["dead", "delivered"]
    assert peer.received == ["1.2"]
    assert "its file is damaged: SHA-256" in str(outbox.rows()[0].last_status)
    assert "delivery_dead" in kinds(database)


def test_a_peer_that_is_not_there_leaves_everything_waiting(database: Database, tmp_path: Path) -> None:
    outbox = outbox_to(None, database, tmp_path)
    outbox.add("1.1")
    outbox.push()
    (row,) = outbox.rows()
    assert (row.state, row.attempt) == ("waiting", 0)
    destination = outbox.destination()
    assert destination.not_before is not None and destination.not_before > utc_now()
    assert "does not answer" in str(destination.reason)


def test_a_peer_that_rejects_us_leaves_everything_waiting(
    peer: Peer, database: Database, tmp_path: Path
) -> None:
    peer.rejecting = (2, 3, 1)
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.push()
    (row,) = outbox.rows()
    assert row.state == "waiting"
    assert "rejected the association" in str(outbox.destination().reason)


def test_what_is_not_due_is_not_sent(peer: Peer, database: Database, tmp_path: Path) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.change(not_before=utc_now() + timedelta(seconds=60))
    outbox.push()
    assert peer.associations == 0


def test_another_destination_is_left_alone(peer: Peer, database: Database, tmp_path: Path) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1", destination="ELSEWHERE")
    outbox.push()
    assert outbox.states() == ["waiting"]


def test_what_was_tried_often_enough_is_a_dead_letter(database: Database, tmp_path: Path) -> None:
    with peer_answering(0xA700, 0xA700) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        rules = outbox.settings.delivery.model_copy(update={"maximum_attempts": 2})
        outbox.delivery = Delivery(outbox.settings.model_copy(update={"delivery": rules}), database)
        outbox.add("1.1")
        for _ in range(2):
            outbox.change(not_before=utc_now())
            outbox.push()
    assert outbox.states() == ["dead"]
    assert events(database, "delivery_dead")[0][1]["attempt"] == 2


def test_a_dead_letter_that_is_replayed_is_sent(peer: Peer, database: Database, tmp_path: Path) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.change(state="dead", attempt=200)
    with database.transaction() as session:
        replay_delivery(session, Audit("admin"), session.get_one(DeliveryRow, 1))
    outbox.push()
    (row,) = outbox.rows()
    assert (row.state, row.attempt) == ("delivered", 1)
    assert kinds(database) == ["delivery_replayed", "result_delivered"]


def test_what_a_crash_left_in_sending_is_free_again_at_start(
    peer: Peer, database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    outbox.add("1.1")
    outbox.change(state="sending", attempt=1, lease_expires_at=utc_now() + timedelta(seconds=600))
    outbox.push()
    assert peer.received == []
    outbox.delivery.release_leases()
    outbox.push()
    assert outbox.states() == ["delivered"]


def test_what_a_lost_sender_held_is_tried_later_once_its_lease_expired(
    database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(None, database, tmp_path)
    outbox.add("1.1")
    outbox.change(state="sending", attempt=1, lease_expires_at=utc_now() + timedelta(seconds=60))
    outbox.delivery.recover_lost()
    assert outbox.states() == ["sending"]
    outbox.change(lease_expires_at=utc_now() - timedelta(seconds=1))
    outbox.delivery.recover_lost()
    assert outbox.states() == ["waiting"]
    assert outbox.rows()[0].last_status == "the sender was lost"


def test_the_lease_of_a_batch_lasts_as_long_as_its_objects_may_take(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomnode.deliver.sender, "LOWEST_RATE_BYTES_PER_S", 100)
    leases: list[datetime] = []

    def look(_: Any) -> int:
        leases.extend(row.lease_expires_at for row in outbox.rows() if row.lease_expires_at is not None)
        return 0x0000

    with peer_answering(look) as peer:
        outbox = outbox_to(peer, database, tmp_path, response_timeout_s=10.0)
        for uid in ("1.1", "1.2"):
            outbox.add(uid, size_bytes=20_000)
        begin = utc_now()
        outbox.push()
    assert outbox.states() == ["delivered"] * 2
    assert len(leases) == 2
    assert min(leases) - begin >= 2 * timedelta(seconds=2 * 10.0 + 200.0)


def test_a_destination_that_is_no_longer_configured_is_a_dead_letter(
    database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(None, database, tmp_path)
    outbox.add("1.1", destination="GONE")
    outbox.add("1.2")
    outbox.delivery.bury_unknown()
    assert outbox.states() == ["dead", "waiting"]


def test_objects_of_a_job_that_failed_together_stay_in_order(database: Database, tmp_path: Path) -> None:
    with peer_answering(*[abort] * 4) as peer:
        outbox = outbox_to(peer, database, tmp_path)
        for uid in ("1.1", "1.2", "1.3", "1.4", "1.5", "1.6"):
            outbox.add(uid)
        for _ in range(4):
            outbox.end_pauses()
            outbox.push()
            due = [row.not_before for row in outbox.rows()]
            assert due == sorted(due)
        outbox.end_pauses()
        outbox.push()
        outbox.push()
    assert list(dict.fromkeys(peer.received)) == ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6"]


def test_the_pause_between_attempts_doubles_up_to_its_cap() -> None:
    rules = DeliverySettings(first_delay_s=5, longest_delay_s=60)
    for attempt, longest in ((1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (200, 60)):
        delays = {retry_delay_s(attempt, rules) for _ in range(50)}
        assert all(longest / 2 <= delay <= longest for delay in delays)
        assert len(delays) > 1


def test_only_success_warnings_and_what_the_peer_already_has_are_accepted() -> None:
    accepted = {status for status in range(0x10000) if fate_of(status) is Fate.ACCEPTED}
    assert accepted == {0x0000, 0x0001, 0x0107, 0x0111, 0x0116, *range(0xB000, 0xC000)}


def test_a_compressed_file_that_the_peer_cannot_take_is_refused_and_the_others_go(
    peer: Peer, database: Database, tmp_path: Path
) -> None:
    outbox = outbox_to(peer, database, tmp_path)
    compressed = image(SOPInstanceUID="1.7")
    compressed.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)
    files = [save(compressed, tmp_path / "rle.dcm"), outbox.add("1.8")]
    fates = [answer.fate for answer in send("NODE", outbox.settings.peers["PACS"], files, 1.0)]
    assert fates[1] is Fate.ACCEPTED
    assert fates[0] is not Fate.TRY_LATER


def test_an_echo_succeeds_or_says_why_not(peer: Peer, tmp_path: Path) -> None:
    echo("NODE", settings_in(tmp_path, peer_port=peer.port).peers["PACS"])
    peer.rejecting = (2, 3, 1)
    with pytest.raises(TransientError, match="rejected"):
        echo("NODE", settings_in(tmp_path, peer_port=peer.port).peers["PACS"])
    with pytest.raises(TransientError, match="does not answer at"):
        echo("NODE", settings_in(tmp_path).peers["PACS"])
