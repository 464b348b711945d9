"""Who really calls, when a TCP load balancer stands in front: the PROXY protocol, versions 1 and 2.

A proxy that is believed (`listener.trusted_proxies`) must begin each connection with the header; everybody
else's first bytes are DICOM or TLS, whatever they look like.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from socket import socket

from proxyprotocol import ProxyProtocolIncompleteError, ProxyProtocolWantRead
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import is_ipv4, is_ipv6, is_local, is_unknown

LONGEST_HEADER_BYTES = 536
"""Version 1 has 107 at most; version 2 promises to fit into the smallest packet with its extensions."""
_READ = ProxyProtocolDetect()


class NotIntroduced(OSError):
    """A trusted proxy did not say who calls."""


class TrustedProxies:
    """The addresses whose word about others is taken."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        here = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(here, ipaddress.IPv6Address) and here.ipv4_mapped:
            here = here.ipv4_mapped
        return any(here in network for network in self._networks)


def introduced(channel: socket, proxy_address: str, timeout_s: float) -> str:
    """Read the header, and not a byte more: the address of the caller, or of the proxy if it calls itself.

    Raises NotIntroduced when there is no such header within the time, OSError when the connection breaks.
    """
    deadline, header = time.monotonic() + timeout_s, b""
    before_s = channel.gettimeout()
    while True:
        try:
            result = _READ.unpack(header)
            break
        except ProxyProtocolIncompleteError as error:
            header += _more(channel, error.want_read, deadline)
        except ValueError as error:
            raise NotIntroduced("a trusted proxy sent no PROXY header; turn it on there") from error
        if len(header) > LONGEST_HEADER_BYTES:
            raise NotIntroduced(f"a PROXY header of more than {LONGEST_HEADER_BYTES} bytes")
    channel.settimeout(before_s)
    if is_ipv4(result) or is_ipv6(result):
        return str(result.source[0])
    if is_local(result) or is_unknown(result):  # its own health check
        return proxy_address
    raise NotIntroduced("a trusted proxy named a caller that has no IP address")


def _more(channel: socket, wanted: ProxyProtocolWantRead, deadline: float) -> bytes:
    """Some of the bytes that are wanted. A line is read byte by byte: what follows is not ours."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise NotIntroduced("a trusted proxy sent no whole PROXY header in time")
    channel.settimeout(left_s)
    try:
        received = channel.recv(min(wanted.want_bytes or 1, LONGEST_HEADER_BYTES + 1))
    except TimeoutError as error:
        raise NotIntroduced("a trusted proxy sent no whole PROXY header in time") from error
    if not received:
        raise NotIntroduced("a trusted proxy closed before its PROXY header was whole")
    return received
