"""What can be set about connections: their limits and TLS, for all peers or for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr

from dicomnode.settings.secret import SecretFile
from dicomnode.settings.section import Network, Port, Section

PduBytes = Annotated[int, Field(ge=4096, le=1048576)]


@dataclass(frozen=True)
class Limits:
    """How much one peer may use of the listener."""

    maximum_associations: int
    maximum_pdu_bytes: int
    maximum_object_bytes: int
    idle_timeout_s: float


class ConnectionSettings(Section):
    """What every connection to the listener is held to."""

    maximum_associations: int = Field(default=20, ge=1)
    """Associations at one time, of all peers together."""
    association_timeout_s: float = Field(default=10.0, gt=0.0)
    """From the connection to the end of its A-ASSOCIATE-RQ, TLS included."""
    idle_timeout_s: float = Field(default=60.0, gt=0.0)
    """Between two PDUs, and from the first byte of a PDU to its last."""
    maximum_pdu_bytes: PduBytes = 131072
    maximum_object_gb: float = Field(default=2.0, gt=0.0)
    """One C-STORE may not carry more; it is held in memory until it is whole."""
    trusted_proxies: tuple[Network, ...] = ()
    """TCP load balancers that begin each connection with a PROXY header, which names the caller."""


class TlsSettings(Section):
    """How the node proves itself by TLS, and whom it believes. All files are PEM."""

    certificate: Path
    """The node's certificate, followed by those that lead to an authority."""
    key: SecretFile
    key_password_file: SecretFile | None = None
    """Its first line opens `key`."""
    authorities: Path
    """Certificates of the authorities that sign those of the peers; no others are believed."""
    port: Port = 2762


class PeerConnectionSettings(Section):
    """Limits and TLS of one peer; limits that are not set are as for all."""

    tls: bool = False
    """All associations with it, in both directions, are by TLS."""
    tls_name: str = ""
    """The name that its certificate must bear. Empty: `host` when we call, any when it calls."""
    maximum_associations: int | None = Field(default=None, ge=1)
    idle_timeout_s: float | None = Field(default=None, gt=0.0)
    maximum_pdu_bytes: PduBytes | None = None
    maximum_object_gb: float | None = Field(default=None, gt=0.0)

    _credentials: TlsSettings | None = PrivateAttr(default=None)

    def give(self, credentials: TlsSettings | None) -> None:
        """Say with which files the node proves itself to this peer."""
        self._credentials = credentials if self.tls else None

    @property
    def credentials(self) -> TlsSettings | None:
        """Files for TLS with this peer; None for a peer without. Raises ValueError when none were given."""
        if self.tls and self._credentials is None:
            raise ValueError("the peer wants TLS, and the node has no certificate")
        return self._credentials

    def limits(self, general: ConnectionSettings) -> Limits:
        """What holds for this peer."""
        return Limits(
            maximum_associations=self.maximum_associations or general.maximum_associations,
            maximum_pdu_bytes=self.maximum_pdu_bytes or general.maximum_pdu_bytes,
            maximum_object_bytes=int((self.maximum_object_gb or general.maximum_object_gb) * 1e9),
            idle_timeout_s=self.idle_timeout_s or general.idle_timeout_s,
        )
