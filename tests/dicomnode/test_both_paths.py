"""The fast path and pynetdicom's own path, side by side: whatever is said to both, both do the same.

Not covered: other transfer syntaxes than Explicit VR Little Endian, which neither path looks into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from dicomnode.receive.listener import Listener
from dicomnode.receive.takeover import take_over
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow, InstanceRow
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.parts import encoded, events, image, settings_in, wait_until
from tests.dicomnode.raw_sender import (
    ABORT,
    COMMAND,
    COMMITMENT,
    ECHO,
    IMAGE,
    LAST,
    RELEASE_RQ,
    RawSender,
    Value,
    command_set,
    echo_request,
    p_data,
    pdu,
    store_request,
    uid,
    values,
)

WAIT_S = 60.0
LONGEST_PDU_BYTES = 4096
PLACES = st.lists(st.integers(1, 900), max_size=6)


@dataclass
class Way:
    """A node that takes one of the two paths."""

    port: int
    database: Database

    def told_of(self, sop_instance_uid: str) -> list[tuple[str, Any]]:
        """What the trail says of one instance."""
        with self.database.snapshot() as session:
            rows = session.query(AuditRow).filter_by(sop_instance_uid=sop_instance_uid).order_by(AuditRow.id)
            return [(row.event, row.detail) for row in rows]

    def kept(self, sop_instance_uid: str) -> list[bytes]:
        """The files that are recorded under a UID."""
        with self.database.snapshot() as session:
            rows = session.query(InstanceRow).filter_by(sop_instance_uid=sop_instance_uid)
            return [Path(row.path).read_bytes() for row in rows.order_by(InstanceRow.id)]

    def has_kept(self, sop_instance_uid: str, count: int) -> bool:
        """Whether so many contents are recorded under a UID."""
        return len(self.kept(sop_instance_uid)) == count

    def has_ended(self, count: int) -> bool:
        """Whether more associations than so many are over."""
        return len(events(self.database, "association_ended")) > count


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Way]]:
    """The fast one and the plain one."""
    found, listeners = [], []
    for fast in (True, False):
        node = settings_in(tmp_path_factory.mktemp("fast" if fast else "plain"))
        rules = {"fast_path": fast, "maximum_pdu_bytes": LONGEST_PDU_BYTES}
        node = node.model_copy(update={"listener": node.listener.model_copy(update=rules)})
        database = migrated_database(node)
        spool = Spool(node.spool)
        spool.prepare()
        listeners.append(Listener(node, database, spool))
        listeners[-1].start()
        found.append(Way(node.node.port, database))
    yield found[0], found[1]
    for listener in listeners:
        listener.stop()


def in_pdus(fragments: list[Value], per_pdu: list[int]) -> bytes:
    """The fragments in PDUs of so many each, the rest one by one."""
    content, at = b"", 0
    for count in [*per_pdu, *[1] * len(fragments)]:
        if at < len(fragments):
            content += p_data(fragments[at : at + count])
            at += count
    return content


def test_what_is_handed_back_before_the_network_thread_first_looks_is_read() -> None:
    """The thread that accepted may be held up while a whole association goes by."""
    association, reader = MagicMock(), MagicMock(has_given_back=True)
    read = association.dul._read_pdu_data
    association.dul.state_machine.current_state = "Sta6"
    take_over(association, reader, serve=lambda: None, cut=lambda _: None)
    association._run_reactor()
    assert association.dul._is_transport_event()
    read.assert_called_once()


class TestBoth:
    @settings(
        max_examples=20,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    @given(
        command_cuts=st.one_of(st.just([]), PLACES),
        data_cuts=PLACES,
        per_pdu=st.lists(st.integers(1, 4), max_size=6),
        packets=st.lists(st.integers(1, 3000), max_size=8),
        repeat=st.sampled_from(["once", "again", "altered", "echo", "contradicted"]),
    )
    def test_however_an_object_is_cut_it_is_taken_alike(
        self,
        ways: tuple[Way, Way],
        command_cuts: list[int],
        data_cuts: list[int],
        per_pdu: list[int],
        packets: list[int],
        repeat: str,
    ) -> None:
        sent = image()
        requested = generate_uid() if repeat == "contradicted" else sent.SOPInstanceUID
        said = values(IMAGE, COMMAND, store_request(requested), command_cuts)
        said += values(IMAGE, 0, encoded(sent), data_cuts)
        more: list[Value] = []
        if repeat == "echo":
            more = values(ECHO, COMMAND, echo_request(), command_cuts)
        elif repeat in ("again", "altered"):
            sent.SeriesDescription = "Corrected" if repeat == "altered" else sent.SeriesDescription
            more = values(IMAGE, COMMAND, store_request(requested)) + values(IMAGE, 0, encoded(sent))
        seen = []
        for way in ways:
            sender = RawSender(way.port)
            sender.say(in_pdus(said, per_pdu) + in_pdus(more, per_pdu), packets)
            statuses = [sender.status() for _ in range(2 if more else 1)]
            sender.release()
            count = sum(status in (0, 0xB007) for status in statuses) - (repeat in ("again", "echo"))
            wait_until(partial(way.has_kept, requested, count), WAIT_S)
            seen.append((statuses, way.kept(requested), way.told_of(requested)))
        assert seen[0] == seen[1]
        expected = {"again": [0, 0], "altered": [0, 0xB007], "echo": [0, 0], "contradicted": [0xC000]}
        assert seen[0][0] == expected.get(repeat, [0])

    @pytest.mark.parametrize(
        "rest",
        [
            pytest.param(lambda said: p_data(said[:-1]) + pdu(RELEASE_RQ), id="released"),
            pytest.param(lambda said: p_data(said[:-1]) + pdu(ABORT), id="aborted"),
            pytest.param(lambda said: p_data(said[:-1]) + pdu(0x09), id="an unknown PDU"),
            pytest.param(lambda said: p_data(said[:-1]) + pdu(1, bytes(80)), id="a second request"),
            pytest.param(lambda said: p_data(said[:-1])[:-5], id="closed within a PDU"),
            pytest.param(lambda said: p_data(said[:-1]), id="closed"),
            pytest.param(lambda said: pdu(4, p_data(said[:-1])[6:] + b"\0\0\xff\xff\3\2"), id="too long"),
            pytest.param(lambda said: pdu(4, p_data(said[:-1])[6:] + bytes(3)), id="three more bytes"),
            pytest.param(lambda said: p_data([(99, *said[0][1:]), *said[1:]]), id="an unknown context"),
            pytest.param(lambda said: pdu(4, bytes(LONGEST_PDU_BYTES + 1)), id="a PDU too long"),
        ],
    )
    def test_an_object_that_does_not_become_whole_is_nothing(
        self, ways: tuple[Way, Way], rest: Callable[[list[Value]], bytes]
    ) -> None:
        sent = image()
        said = values(IMAGE, COMMAND, store_request(sent.SOPInstanceUID))
        said += values(IMAGE, 0, encoded(sent), [50, 100])
        for way in ways:
            before = len(events(way.database, "association_ended"))
            sender = RawSender(way.port)
            sender.say(rest(said))
            sender.close()
            wait_until(partial(way.has_ended, before), WAIT_S)
            assert way.kept(sent.SOPInstanceUID) == []
            assert "instance_received" not in dict(way.told_of(sent.SOPInstanceUID))

    def test_a_command_within_a_data_set_ends_the_association(self, ways: tuple[Way, Way]) -> None:
        """pynetdicom takes the two commands for one."""
        sent = image()
        said = values(IMAGE, COMMAND, store_request(sent.SOPInstanceUID))
        said += values(IMAGE, 0, encoded(sent), [50, 100])
        sender = RawSender(ways[0].port)
        sender.say(p_data([*said[:2], said[0]]))
        assert sender.end() == ABORT
        wait_until(lambda: ("association_cut", "a command within a data set") in [
            (event, detail.get("reason")) for event, detail in events(ways[0].database)], WAIT_S)  # fmt: skip

    def test_what_is_no_plain_store_is_answered_on_the_same_association_as_before(
        self, ways: tuple[Way, Way]
    ) -> None:
        sent, find = image(), (0x0100, b"\x20\0")
        find_request = command_set(
            (2, uid("1.2.840.10008.5.1.4.1.2.2.1")), find, (0x0110, b"\1\0"), (0x0800, b"\1\1")
        )
        action = command_set(
            (0x0003, uid("1.2.840.10008.1.20.1")), (0x0100, b"\x30\1"), (0x0110, b"\2\0"),
            (0x0800, b"\1\1"), (0x1001, uid("1.2.840.10008.1.20.1.1")), (0x1008, b"\1\0"),
        )  # fmt: skip
        for way in ways:
            sender = RawSender(way.port)
            stored = values(IMAGE, COMMAND, store_request(sent.SOPInstanceUID)) + values(
                IMAGE, 0, encoded(sent)
            )
            sender.say(p_data(stored) + p_data([(COMMITMENT, COMMAND | LAST, action)]))
            assert [sender.status(), sender.status()] == [0x0000, 0x0115]
            sender.say(p_data(stored))
            assert sender.status() == 0x0000
            sender.say(p_data([(IMAGE, COMMAND | LAST, find_request)]))
            assert sender.end() == ABORT
