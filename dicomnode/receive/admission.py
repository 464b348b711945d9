"""Who may associate: calling AE title, address and called AE title. Closed unless configured."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass

from dicomnode.receive.arrival import Origin
from dicomnode.settings.node import PeerSettings, Settings


@dataclass(frozen=True)
class Refusal:
    """An A-ASSOCIATE-RJ: result, source and diagnostic (PS3.8 section 9.3.4), and why."""

    result: int
    source: int
    diagnostic: int
    reason: str


NOT_CALLED = Refusal(1, 1, 7, "called AE title is not ours")
NOT_KNOWN = Refusal(1, 1, 3, "calling AE title is not a peer that may send")
WRONG_ADDRESS = Refusal(1, 1, 3, "calling AE title is a peer, but not at this address")
WITHOUT_TLS = Refusal(1, 1, 1, "calling AE title is a peer that must use TLS")
WRONG_CERTIFICATE = Refusal(1, 1, 1, "the certificate does not bear the peer's tls_name")
TOO_MANY = Refusal(2, 3, 2, "too many associations at one time")
DISK_FULL = Refusal(2, 3, 1, "too little free disk space")
NOT_DECIDED = Refusal(2, 3, 1, "internal error while deciding about the association")


def admit(
    origin: Origin, settings: Settings, certificate_names: Collection[str] | None = None
) -> PeerSettings | Refusal:
    """The peer that asks for this association, or why it is refused.

    Beside senders, destinations come that report what they committed to.

    `certificate_names` are those of its certificate, in lower case; None when it does not come by TLS.
    """
    if origin.called_ae_title != settings.node.ae_title.strip():
        return NOT_CALLED
    peers = [
        peer
        for peer in settings.peer
        if (peer.may_send or peer.storage_commitment) and peer.ae_title.strip() == origin.calling_ae_title
    ]
    if not peers:
        return NOT_KNOWN
    at_home = [peer for peer in peers if _at_home(peer, origin.address)]
    if not at_home:
        return WRONG_ADDRESS
    if certificate_names is None:
        return next((peer for peer in at_home if not peer.tls), WITHOUT_TLS)
    return next((peer for peer in at_home if _is_named(peer, certificate_names)), WRONG_CERTIFICATE)


def _is_named(peer: PeerSettings, certificate_names: Collection[str]) -> bool:
    return not peer.tls_name or peer.tls_name.lower() in certificate_names


def _at_home(peer: PeerSettings, address: str) -> bool:
    networks = peer.networks or _addresses_of(peer.host)
    here = ipaddress.ip_address(address)
    if isinstance(here, ipaddress.IPv6Address) and here.ipv4_mapped:
        here = here.ipv4_mapped
    return any(here in ipaddress.ip_network(network, strict=False) for network in networks)


def _addresses_of(host: str) -> tuple[str, ...]:
    """Addresses of a host name; none when it cannot be resolved, which keeps the door closed.

    Asked anew each time: a name server that fails for a moment must not shut a peer out for good.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):  # UnicodeError: not formed like a host name
        return ()
    return tuple(sorted({str(entry[4][0]).partition("%")[0] for entry in found}))
