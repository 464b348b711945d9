"""What can be set about the audit trail: its anchors, and who gets its messages."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from dicomnode.settings.section import Name, Port, Section


class SyslogSettings(Section):
    """One receiver of DICOM audit messages (PS3.15 A.6)."""

    name: Name
    """Where the messages are up to is kept under this name."""
    host: str
    port: Port
    transport: Literal["udp", "tcp", "tls"] = "tls"
    ca: Path | None = None
    """Certificates (PEM) that the receiver's must come from; not set: those of the system."""
    certificate: Path | None = None
    """Our own certificate (PEM), and its chain."""
    key: Path | None = None
    patient_id: bool = True
    """Whether messages about patient data name the patient, as the standard wants it."""

    @model_validator(mode="after")
    def _whole(self) -> SyslogSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; set both or none")
        if self.transport != "tls" and (self.ca or self.certificate):
            raise ValueError(f'ca, certificate and key are for transport "tls", not "{self.transport}"')
        return self


class AuditSettings(Section):
    """How the audit trail is kept provable, and where it is told."""

    anchors: Path | None = None
    """File of the daily anchors; not set: `audit-anchors.jsonl` in the data folder."""
    signing_key: Path | None = None
    """Ed25519 private key (PEM) that signs them."""
    syslog: tuple[SyslogSettings, ...] = ()
