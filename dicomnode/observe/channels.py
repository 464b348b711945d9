"""How alerts reach people: a webhook and e-mail."""

from __future__ import annotations

import smtplib
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import formatdate
from enum import StrEnum
from typing import Any, Protocol

import httpx

from dicomnode.errors import TransientError
from dicomnode.settings.alert import AlertSettings

TIMEOUT_S = 10.0


class Phase(StrEnum):
    """What is told of an alert."""

    BEGUN = "begun"
    ENDED = "ended"


@dataclass(frozen=True)
class News:
    """The beginning or the end of one alert."""

    alert_id: int
    kind: str
    subject: str
    phase: Phase
    at: datetime
    text: str

    @property
    def sentence(self) -> str:
        """One line for people."""
        return f"{self.phase.value} at {self.at:%Y-%m-%d %H:%M:%S} UTC: {self.text}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "alert": self.alert_id,
            "kind": self.kind,
            "subject": self.subject,
            "phase": self.phase.value,
            "at": self.at.isoformat(),
            "text": self.text,
        }


@dataclass(frozen=True)
class Message:
    """What one channel is told at once, at least one piece of news."""

    node: str
    """AE title."""
    news: tuple[News, ...]

    @property
    def title(self) -> str:
        """One line for a subject."""
        begun = sum(news.phase is Phase.BEGUN for news in self.news)
        ended = len(self.news) - begun
        parts = [f"{count} {word}" for count, word in ((begun, "begun"), (ended, "ended")) if count]
        kinds = ", ".join(dict.fromkeys(news.kind.replace("_", " ") for news in self.news))
        return f"[{self.node}] alerts: {', '.join(parts)} ({kinds})"

    @property
    def text(self) -> str:
        """All of it for people."""
        return "\n".join(news.sentence for news in self.news)


class Channel(Protocol):
    """A way to people. `send` raises TransientError when it does not work now."""

    @property
    def name(self) -> str:
        """How the database calls it."""

    def send(self, message: Message) -> None:
        """Send one message."""


@dataclass(frozen=True)
class Webhook:
    """POSTs JSON. `text` is what chat programs (Slack, Teams, Mattermost) show of it."""

    settings: AlertSettings
    name: str = "webhook"

    def send(self, message: Message) -> None:
        """POST one message; any answer but 2xx is a failure."""
        assert self.settings.webhook is not None
        token = self.settings.webhook_token
        content = {
            "node": message.node,
            "text": f"{message.title}\n{message.text}",
            "alerts": [news.as_json() for news in message.news],
        }
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            httpx.post(
                self.settings.webhook, json=content, headers=headers, timeout=TIMEOUT_S
            ).raise_for_status()
        except httpx.HTTPStatusError as error:  # its text holds the address, which may be a secret
            raise TransientError(f"the webhook answered {error.response.status_code}") from error
        except httpx.HTTPError as error:
            raise TransientError(f"the webhook cannot be reached ({type(error).__name__})") from error


@dataclass(frozen=True)
class Mail:
    """Sends e-mail through one server."""

    settings: AlertSettings
    name: str = "mail"

    def send(self, message: Message) -> None:
        """Send one message to all recipients."""
        mail = EmailMessage()
        mail["Subject"] = message.title
        mail["From"] = self.settings.mail_from
        mail["To"] = ", ".join(self.settings.mail_to)
        mail["Date"] = formatdate()
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        try:
            with self._connect() as server:
                if self.settings.smtp_user:
                    server.login(self.settings.smtp_user, self.settings.smtp_password or "")
                server.send_message(mail)
        except (smtplib.SMTPException, OSError) as error:
            raise TransientError(f"the mail server did not take it ({type(error).__name__})") from error

    def _connect(self) -> smtplib.SMTP:
        host, port = self.settings.smtp_host or "", self.settings.smtp_port
        context = ssl.create_default_context()
        if self.settings.smtp_security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
        server = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        if self.settings.smtp_security == "starttls":
            server.starttls(context=context)
        return server


def channels_of(settings: AlertSettings) -> tuple[Channel, ...]:
    """The channels that the settings name."""
    found: list[Channel] = []
    if settings.webhook:
        found.append(Webhook(settings))
    if settings.mail_to:
        found.append(Mail(settings))
    return tuple(found)
