"""Callers behind a TCP load balancer: who is believed about whom, on a real port.

Not covered: a real load balancer, which tests/system/test_machines.py has.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from dicomnode.receive.connections import ADDRESSES, SPARE_CONNECTIONS, Connections
from dicomnode.receive.proxied import NotIntroduced, TrustedProxies, introduced
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow
from dicomnode.settings.network import ConnectionSettings
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from tests.dicomnode.parts import events, wait_until
from tests.dicomnode.test_connections import WAIT_S, connect, is_closed, listening, with_listener

CALLER = "192.0.2.7"
VERSION_1 = f"PROXY TCP4 {CALLER} 127.0.0.1 40000 11112\r\n".encode()
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
VERSION_2 = (
    SIGNATURE
    + b"\x21\x11\x00\x0c"
    + socket.inet_aton(CALLER)
    + socket.inet_aton("127.0.0.1")
    + b"\x9c\x40\x2b\x68"
)
HEALTH_CHECK_1, HEALTH_CHECK_2 = b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00"


def heard(sent: bytes, timeout_s: float = WAIT_S, *, close: bool = False) -> tuple[str, bytes]:
    """Who is introduced by these bytes, and what is left of them for whoever reads next."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        if close:
            theirs.shutdown(socket.SHUT_WR)
        caller = introduced(ours, "10.0.0.1", timeout_s)
        theirs.shutdown(socket.SHUT_WR)
        return caller, ours.recv(1000)


@pytest.mark.parametrize("header", [VERSION_1, VERSION_2])
def test_the_caller_is_read_and_nothing_beyond(header: bytes) -> None:
    assert heard(header + b"\x01\x00rest") == (CALLER, b"\x01\x00rest")


@pytest.mark.parametrize("header", [HEALTH_CHECK_1, HEALTH_CHECK_2])
def test_a_health_check_is_the_proxy_itself(header: bytes) -> None:
    assert heard(header) == ("10.0.0.1", b"")


def test_a_caller_by_ipv6_is_read() -> None:
    assert heard(b"PROXY TCP6 2001:db8::7 ::1 40000 11112\r\n")[0] == "2001:db8::7"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x01\x00\x00\x00\x00\xd0\x00\x01",  # an A-ASSOCIATE-RQ
        b"PROXY TCP4 not-an-address 127.0.0.1 1 2\r\n",
        b"PROXY " + b"x" * 1000,
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(1000),
        VERSION_1[:20],
        b"",
    ],
)
def test_whoever_is_not_introduced_is_refused(sent: bytes) -> None:
    with pytest.raises(NotIntroduced):
        heard(sent, close=True)


def test_a_proxy_that_says_nothing_is_not_waited_for() -> None:
    with pytest.raises(NotIntroduced, match="in time"):
        heard(VERSION_1[:20], timeout_s=0.2)


@given(st.binary(max_size=700))
@examples(deadline=None, max_examples=200)
def test_any_bytes_end_in_a_caller_or_a_refusal(sent: bytes) -> None:
    with suppress(NotIntroduced):
        heard(sent, close=True)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("10.0.0.1", True), ("::ffff:10.0.0.9", True), ("10.0.1.1", False), ("2001:db8::1", False)],
)
def test_only_what_is_configured_is_trusted(address: str, trusted: bool) -> None:
    assert (address in TrustedProxies(["10.0.0.0/24"])) is trusted


def test_nobody_is_trusted_by_default() -> None:
    assert "127.0.0.1" not in TrustedProxies(ConnectionSettings().trusted_proxies)


def echo_through(node: Settings, header: bytes) -> str:
    """A C-ECHO whose connection begins with `header`: how it ended."""
    entity = AE(ae_title="PACS")
    entity.add_requested_context(Verification)

    def introduce(event: evt.Event) -> None:
        event.assoc.dul.socket.socket.sendall(header)

    handlers: list[tuple[object, Callable[[evt.Event], None]]] = [(evt.EVT_CONN_OPEN, introduce)]
    association = entity.associate("127.0.0.1", node.node.port, ae_title="LESIONNODE", evt_handlers=handlers)
    if association.is_rejected:
        return "rejected"
    if not association.is_established:
        return "closed"
    association.release()
    return "established"


def test_the_rule_for_addresses_holds_behind_a_proxy(
    settings: Settings, database: Database, spool: Spool
) -> None:
    behind = with_listener(settings, trusted_proxies=("127.0.0.1",))
    with listening(behind, database, spool, networks=(CALLER,)) as node:
        assert echo_through(node, VERSION_1) == "established"
        assert echo_through(node, VERSION_2) == "established"
        assert echo_through(node, VERSION_1.replace(b".2.7", b".2.8")) == "rejected"
        assert echo_through(node, HEALTH_CHECK_1) == "rejected"  # the proxy itself may not send
        with connect(node) as silent:
            silent.sendall(b"\x01\x00\x00\x00\x00\xd0\x00\x01")
            assert is_closed(silent)
        wait_until(lambda: len(events(database, "association_rejected")) == 3, WAIT_S)
    with database.snapshot() as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.event == "association_rejected"))
        told = {(row.detail["address"], row.detail["reason"]) for row in rows}
    elsewhere = "calling AE title is a peer, but not at this address"
    assert told == {
        ("192.0.2.8", elsewhere),
        ("127.0.0.1", elsewhere),
        ("127.0.0.1", "a trusted proxy sent no PROXY header; turn it on there"),
    }


def test_a_header_of_somebody_else_is_not_believed(
    settings: Settings, database: Database, spool: Spool
) -> None:
    elsewhere = with_listener(settings, trusted_proxies=("192.0.2.1",))
    with listening(elsewhere, database, spool, networks=(CALLER,)) as node:
        assert echo_through(node, VERSION_1) == "closed"


def test_connections_through_a_proxy_are_counted_by_their_callers() -> None:
    rules = ConnectionSettings(maximum_associations=2, trusted_proxies=("10.0.0.1",))
    connections, most = Connections(rules), 2 + SPARE_CONNECTIONS
    for _ in range(most):
        assert connections.open("10.0.0.1")
        assert connections.introduce("10.0.0.1", CALLER)
    assert connections.open("10.0.0.1")  # there is room at the proxy, and none for this caller
    assert not connections.introduce("10.0.0.1", CALLER)
    assert connections.introduce("10.0.0.1", "192.0.2.8")
    opened = sum(connections.open("10.0.0.1") for _ in range(1000))
    assert opened == most * ADDRESSES - most - 1


def test_a_slow_introduction_holds_up_nobody(settings: Settings, database: Database, spool: Spool) -> None:
    behind = with_listener(settings, trusted_proxies=("127.0.0.1",), association_timeout_s=WAIT_S)
    with listening(behind, database, spool, networks=(CALLER,)) as node, connect(node) as silent:
        silent.sendall(VERSION_1[:10])
        assert echo_through(node, VERSION_1) == "established"
