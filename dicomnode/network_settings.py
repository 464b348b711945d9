"""What can be set about connections: their limits, for all peers or for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dicomnode.section import Section

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


class PeerConnectionSettings(Section):
    """The same for one peer; what is not set is as for all."""

    maximum_associations: int | None = Field(default=None, ge=1)
    idle_timeout_s: float | None = Field(default=None, gt=0.0)
    maximum_pdu_bytes: PduBytes | None = None
    maximum_object_gb: float | None = Field(default=None, gt=0.0)

    def limits(self, general: ConnectionSettings) -> Limits:
        """What holds for this peer."""
        return Limits(
            maximum_associations=self.maximum_associations or general.maximum_associations,
            maximum_pdu_bytes=self.maximum_pdu_bytes or general.maximum_pdu_bytes,
            maximum_object_bytes=int((self.maximum_object_gb or general.maximum_object_gb) * 1e9),
            idle_timeout_s=self.idle_timeout_s or general.idle_timeout_s,
        )
