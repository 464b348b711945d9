"""Who may associate: closed unless the configuration opens the door."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.receive import admission
from dicomnode.receive.admission import NOT_CALLED, NOT_KNOWN, WRONG_ADDRESS, Refusal
from dicomnode.receive.arrival import Origin
from dicomnode.settings.node import Settings
from tests.dicomnode.parts import settings_in

PEER = """
[[peer]]
name = "{name}"
ae_title = "{ae_title}"
host = "{host}"
port = 104
may_send = {may_send}
networks = {networks}
"""


def with_peer(
    folder: Path,
    *networks: str,
    ae_title: str = "MODALITY",
    host: str = "192.0.2.7",
    may_send: str = "true",
    name: str = "modality",
) -> Settings:
    return settings_in(
        folder,
        PEER.format(name=name, ae_title=ae_title, host=host, may_send=may_send, networks=list(networks)),
    )


def came(calling: str = "MODALITY", address: str = "192.0.2.7", called: str = "LESIONNODE") -> Origin:
    return Origin(calling, address, called)


def admit(origin: Origin, settings: Settings) -> Refusal | None:
    """The refusal, if any; who is let in is the peer that it says it is."""
    found = admission.admit(origin, settings)
    if isinstance(found, Refusal):
        return found
    assert found.ae_title.strip() == origin.calling_ae_title
    return None


def test_a_node_without_peers_lets_nobody_in() -> None:
    settings = Settings.model_validate({"node": {"ae_title": "LESIONNODE", "data": "d"}})
    assert admit(came(), settings) is NOT_KNOWN


def test_a_peer_at_its_host_is_let_in(tmp_path: Path) -> None:
    assert admit(came(), with_peer(tmp_path)) is None


def test_a_peer_calling_another_title_is_refused_as_not_recognised(tmp_path: Path) -> None:
    refusal = admit(came(called="ANY-SCP"), with_peer(tmp_path))
    assert refusal is NOT_CALLED
    assert refusal
    assert (refusal.result, refusal.source, refusal.diagnostic) == (1, 1, 7)


def test_an_unknown_calling_title_is_refused_as_not_recognised(tmp_path: Path) -> None:
    refusal = admit(came(calling="STRANGER"), with_peer(tmp_path))
    assert refusal is NOT_KNOWN
    assert refusal
    assert (refusal.result, refusal.source, refusal.diagnostic) == (1, 1, 3)


def test_titles_differ_by_case(tmp_path: Path) -> None:
    assert admit(came(calling="modality"), with_peer(tmp_path)) is NOT_KNOWN


def test_spaces_around_a_title_do_not_count(tmp_path: Path) -> None:
    assert admit(came(), with_peer(tmp_path, ae_title=" MODALITY ")) is None


def test_a_peer_that_only_receives_may_not_send(tmp_path: Path) -> None:
    assert admit(came(), with_peer(tmp_path, may_send="false")) is NOT_KNOWN


def test_a_known_title_at_another_address_is_refused(tmp_path: Path) -> None:
    refusal = admit(came(address="192.0.2.8"), with_peer(tmp_path))
    assert refusal is WRONG_ADDRESS
    assert refusal
    assert (refusal.result, refusal.source, refusal.diagnostic) == (1, 1, 3)


@pytest.mark.parametrize(
    ("networks", "address", "inside"),
    [
        (("10.1.0.0/16",), "10.1.255.3", True),
        (("10.1.0.0/16",), "10.2.0.1", False),
        (("10.1.2.3/16",), "10.1.0.9", True),
        (("10.0.0.5",), "10.0.0.5", True),
        (("10.0.0.5",), "10.0.0.6", False),
        (("10.0.0.5", "10.9.0.0/24"), "10.9.0.77", True),
        (("10.1.0.0/16",), "::ffff:10.1.2.3", True),
        (("10.1.0.0/16",), "::ffff:10.2.2.3", False),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (("10.1.0.0/16",), "2001:db8::1", False),
        (("fe80::/64",), "fe80::1%eth0", True),
    ],
)
def test_a_peer_is_at_home_in_its_networks_only(
    tmp_path: Path, networks: tuple[str, ...], address: str, inside: bool
) -> None:
    refusal = admit(came(address=address), with_peer(tmp_path, *networks))
    assert refusal is (None if inside else WRONG_ADDRESS)


def test_networks_replace_the_host(tmp_path: Path) -> None:
    assert admit(came(), with_peer(tmp_path, "10.0.0.0/8")) is WRONG_ADDRESS


def test_a_host_name_stands_for_its_addresses(tmp_path: Path) -> None:
    settings = with_peer(tmp_path, host="localhost")
    assert admit(came(address="127.0.0.1"), settings) is None
    assert admit(came(address="192.0.2.7"), settings) is WRONG_ADDRESS


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "double..dot", ""])
def test_a_host_that_cannot_be_resolved_keeps_the_door_closed(tmp_path: Path, host: str) -> None:
    settings = with_peer(tmp_path, host=host)
    assert admit(came(address="192.0.2.7"), settings) is WRONG_ADDRESS
    assert admit(came(address="127.0.0.1"), settings) is WRONG_ADDRESS


def test_a_name_that_can_be_resolved_again_opens_the_door_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_peer(tmp_path, host="pacs.example")

    def fails(*_: object) -> list[object]:
        raise OSError("temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", fails)
    assert admit(came(), settings) is WRONG_ADDRESS
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(2, 1, 6, "", ("192.0.2.7", 0))])
    assert admit(came(), settings) is None


def test_one_title_may_have_several_addresses_as_several_peers(tmp_path: Path) -> None:
    more = "".join(
        PEER.format(name=name, ae_title="MODALITY", host=host, may_send="true", networks=[])
        for name, host in (("a", "192.0.2.7"), ("b", "192.0.2.8"))
    )
    settings = settings_in(tmp_path, more)
    assert admit(came(address="192.0.2.8"), settings) is None
    assert admit(came(address="192.0.2.9"), settings) is WRONG_ADDRESS
