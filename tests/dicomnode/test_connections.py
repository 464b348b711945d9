"""Connections that are too many, too slow or too large, on a real port.

Not covered: running out of threads or file descriptors, which the limits keep far away.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from dicomnode.receive.arrival import Origin
from dicomnode.receive.connections import SPARE_CONNECTIONS
from dicomnode.receive.listener import Listener
from dicomnode.receive.turned_away import MANY, TurnedAway
from dicomnode.records.audit import Audit, Event
from dicomnode.records.db import Database
from dicomnode.records.story import tell
from dicomnode.records.tables import AuditRow, InstanceRow
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from tests.dicomnode.parts import echoed, events, image, stored, wait_until

WAIT_S = 60.0


@contextmanager
def listening(settings: Settings, database: Database, spool: Spool, **peer: Any) -> Iterator[Settings]:
    """A listener; `peer` changes the settings of its only peer."""
    changed = settings.model_copy(update={"peer": (settings.peer[0].model_copy(update=peer),)})
    listener = Listener(changed, database, spool)
    listener.start()
    try:
        yield changed
    finally:
        listener.stop()


def with_listener(settings: Settings, **rules: Any) -> Settings:
    return settings.model_copy(update={"listener": settings.listener.model_copy(update=rules)})


def associate(node: Settings) -> Association:
    entity = AE(ae_title="PACS")
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", node.node.port, ae_title="LESIONNODE")


def connect(node: Settings) -> socket.socket:
    channel = socket.create_connection(("127.0.0.1", node.node.port))
    channel.settimeout(WAIT_S)
    return channel


def is_closed(channel: socket.socket) -> bool:
    """Waits until the other side closes, or the time-out of the socket."""
    try:
        while channel.recv(4096):
            pass
    except ConnectionError:
        return True
    return True


def cuts(database: Database) -> list[str]:
    return [detail["reason"] for _, detail in events(database, "association_cut")]


def rejections(database: Database) -> list[dict[str, Any]]:
    return [detail for _, detail in events(database, "association_rejected")]


def trickle(channel: socket.socket, content: bytes, stop: threading.Event) -> None:
    """One byte now and then, until the other side has enough."""
    for byte in content:
        try:
            channel.sendall(bytes([byte]))
        except OSError:
            return
        if stop.wait(0.1):
            return


def test_whoever_trickles_its_request_is_closed_and_holds_up_nobody(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(with_listener(settings, association_timeout_s=2.0), database, spool) as node:
        stop = threading.Event()
        with connect(node) as silent, connect(node) as slow:
            request = struct.pack(">BBL", 1, 0, 2000) + b"\x00\x01" + b"\0" * 1998
            thread = threading.Thread(target=trickle, args=(slow, request, stop))
            thread.start()
            association = associate(node)
            assert echoed(association).Status == 0x0000
            association.release()
            assert is_closed(slow)
            assert is_closed(silent)
            stop.set()
            thread.join()
        wait_until(lambda: cuts(database), WAIT_S)
    assert set(cuts(database)) == {"no association requested in time"}


def test_a_pdu_that_never_ends_is_cut_off_although_bytes_still_come(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(settings, database, spool, idle_timeout_s=2.0) as node:
        association = associate(node)
        assert association.is_established
        stop = threading.Event()
        half = struct.pack(">BBL", 4, 0, 5000) + b"\0" * 4999
        thread = threading.Thread(target=trickle, args=(association.dul.socket.socket, half, stop))
        thread.start()
        wait_until(lambda: cuts(database) == ["a PDU that does not end"], WAIT_S)
        stop.set()
        thread.join()
        association.abort()


def test_an_idle_association_ends_by_the_time_out_of_its_peer(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(settings, database, spool, idle_timeout_s=0.5) as node:
        association = associate(node)
        wait_until(lambda: association.is_aborted, WAIT_S)


@pytest.mark.parametrize("length", [2**32 - 1, 131073])
def test_a_pdu_longer_than_negotiated_is_not_even_read(
    settings: Settings, database: Database, spool: Spool, length: int
) -> None:
    with listening(settings, database, spool) as node:
        association = associate(node)
        assert association.acceptor.maximum_length == 131072
        association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, length))
        wait_until(lambda: cuts(database) == ["a PDU longer than 131072 bytes"], WAIT_S)
        wait_until(lambda: association.is_aborted, WAIT_S)


def test_a_huge_association_request_is_not_even_read(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(settings, database, spool) as node, connect(node) as channel:
        channel.sendall(struct.pack(">BBL", 1, 0, 2**31))
        assert is_closed(channel)
        wait_until(lambda: cuts(database) == ["a PDU longer than 1048576 bytes"], WAIT_S)


def test_the_longest_pdu_is_that_of_the_peer(settings: Settings, database: Database, spool: Spool) -> None:
    with listening(settings, database, spool, maximum_pdu_bytes=4096) as node:
        association = associate(node)
        assert association.acceptor.maximum_length == 4096
        sent = image(Rows=100, Columns=100, PixelData=bytes(20000))
        assert stored(association, sent).Status == 0x0000
        association.release()


def test_an_object_beyond_the_limit_is_cut_off_and_smaller_ones_are_not_added_up(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(settings, database, spool, maximum_object_gb=0.0001) as node:  # 100 kB
        association = associate(node)
        for _ in range(3):
            assert stored(association, image(PixelData=bytes(60_000))).Status == 0x0000
        stored(association, image(PixelData=bytes(150_000)))
        wait_until(lambda: cuts(database) == ["an object of more than 100000 bytes"], WAIT_S)
        wait_until(lambda: association.is_aborted, WAIT_S)
    with database.snapshot() as session:
        assert len(list(session.scalars(select(InstanceRow)))) == 3


def test_a_peer_has_its_own_number_of_associations_and_gets_a_free_one_again(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(settings, database, spool, maximum_associations=1) as node:
        first = associate(node)
        second = associate(node)
        assert second.is_rejected
        answer = second.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        wait_until(lambda: rejections(database), WAIT_S)
        assert rejections(database)[0]["reason"] == "too many associations at one time"
        first.release()
        third = associate(node)
        assert third.is_established
        third.release()


def test_the_limit_for_all_peers_together_is_audited(
    settings: Settings, database: Database, spool: Spool
) -> None:
    with listening(with_listener(settings, maximum_associations=2), database, spool) as node:
        inside = [associate(node), associate(node)]
        assert associate(node).is_rejected
        wait_until(lambda: rejections(database), WAIT_S)
        for association in inside:
            association.release()


def test_a_storm_of_connections_is_bounded_and_over_when_they_are_closed(
    settings: Settings, database: Database, spool: Spool
) -> None:
    few = with_listener(settings, maximum_associations=2, association_timeout_s=60.0)
    with listening(few, database, spool) as node:
        with ExitStack() as stack:
            before = threading.active_count()
            channels = [stack.enter_context(connect(node)) for _ in range(100)]
            wait_until(lambda: rejections(database), WAIT_S)
            assert rejections(database)[0]["reason"] == "too many connections"
            assert is_closed(channels[-1])
            assert threading.active_count() - before <= 3 * (2 + SPARE_CONNECTIONS)
        wait_until(lambda: associate_and_release(node), WAIT_S)


def associate_and_release(node: Settings) -> bool:
    association = associate(node)
    established = bool(association.is_established)
    if established:
        association.release()
    return established


def test_a_flood_of_rejections_is_two_rows_that_tell_its_number(database: Database) -> None:
    turned_away = TurnedAway(database, Audit("receiver"))
    for number in range(500):
        turned_away.tell(Event.ASSOCIATION_REJECTED, Origin(f"X{number}", "192.0.2.1", "A"), "not known")
    turned_away.tell(Event.ASSOCIATION_REJECTED, Origin("Y", "192.0.2.2", "A"), "not known")
    turned_away.flush()
    assert [row["times"] for row in rejections(database)] == [1, 1]
    turned_away.flush(time.monotonic() + 61.0)
    assert [row["times"] for row in rejections(database)] == [1, 1, 499]
    turned_away.tell(Event.ASSOCIATION_REJECTED, Origin("X", "192.0.2.1", "A"), "not known")
    assert len(rejections(database)) == 4
    with database.snapshot() as session:
        sentences = [line.sentence for line in tell(session.scalars(select(AuditRow)))]
    assert sentences[2] == "association of X0 at 192.0.2.1 rejected: not known (499 more times)"


def test_a_flood_from_ever_new_addresses_is_bounded_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.receive.turned_away.MANY", 10)
    assert MANY == 1000
    turned_away = TurnedAway(database, Audit("receiver"))
    for number in range(200):
        turned_away.tell(Event.ASSOCIATION_REJECTED, Origin("X", f"2001:db8::{number:x}", "A"), "not known")
    turned_away.flush(float("inf"))
    told = rejections(database)
    assert len(told) == 12
    assert sum(row["times"] for row in told) == 200


def test_associations_share_the_supported_contexts_and_leave_them_as_they_are(
    settings: Settings, database: Database, spool: Spool
) -> None:
    listener = Listener(settings, database, spool)
    listener.start()
    try:
        (server,) = listener._servers
        assert deepcopy(server.contexts)[0] is server.contexts[0], "copying them takes 60 ms"
        before = [dict(vars(context)) for context in server.contexts]
        association = associate(settings)
        assert stored(association, image()).Status == 0
        association.release()
        assert [vars(context) for context in server.contexts] == before
    finally:
        listener.stop()
