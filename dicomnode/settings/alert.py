"""`[alerts]` of `node.toml`: what is worth a message, and who gets it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dicomnode.settings.secret import SecretFile, read_secret
from dicomnode.settings.section import Port, Section

WEBHOOK_TOKEN = "DICOMNODE_WEBHOOK_TOKEN"
SMTP_PASSWORD = "DICOMNODE_SMTP_PASSWORD"


class AlertSettings(Section):
    """Limits and channels. Without `webhook` and `mail_to` alerts are in the audit and metrics alone."""

    queue_age_s: float = Field(default=1800.0, gt=0.0)
    """A job or delivery that waits longer is worth a message."""
    minimum_free_gb: float = Field(default=20.0, ge=0.0)
    """Less free disk is worth a message; above `listener.minimum_free_gb`, so that there is time."""
    peer_down_s: float = Field(default=300.0, gt=0.0)
    settle_s: float = Field(default=300.0, ge=0.0)
    """A trouble must be gone for so long before its alert ends."""
    message_interval_s: float = Field(default=60.0, ge=0.0)
    """At most one message in this time on each channel; what happens in between is told together."""
    webhook: Annotated[str, Field(pattern=r"^https?://")] | None = None
    webhook_token_file: SecretFile | None = None
    mail_to: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...] = ()
    mail_from: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    smtp_host: str | None = None
    smtp_port: Port = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = None
    smtp_password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _whole(self) -> AlertSettings:
        if self.mail_to and not (self.mail_from and self.smtp_host):
            raise ValueError("mail_to needs mail_from and smtp_host too")
        if self.smtp_user and self.smtp_security == "none":
            raise ValueError(
                "a password would cross the network in the clear; set smtp_security or no smtp_user"
            )
        return self

    @property
    def webhook_token(self) -> str | None:
        """Bearer token for the webhook, if there is one. Raises ConfigurationError."""
        return read_secret(WEBHOOK_TOKEN, self.webhook_token_file)

    @property
    def smtp_password(self) -> str | None:
        """Password of `smtp_user`, if there is one. Raises ConfigurationError."""
        return read_secret(SMTP_PASSWORD, self.smtp_password_file)
