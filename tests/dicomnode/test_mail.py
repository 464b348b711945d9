"""Alerts by mail through a real server: by STARTTLS with a password, or not at all.

Not covered: a certificate of a public authority.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from dicomnode.errors import TransientError
from dicomnode.observe.channels import Mail, Message, News, Phase
from dicomnode.records.db import utc_now
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.alert import AlertSettings
from tests.certificates import Authority
from tests.dicomnode.test_alerts import Mailbox


class Login:
    """Takes one password."""

    def __call__(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        right = (data.login, data.password) == (b"node", b"Sesame7")
        return AuthResult(success=right, handled=False)


@contextmanager
def mail_server(authority: Authority | None) -> Iterator[tuple[Mailbox, int]]:
    """A server that takes nothing before STARTTLS and a password; without an authority it has no STARTTLS."""
    mailbox, port = Mailbox(), free_port()
    options: dict[str, Any] = {}
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.sign("mail.example.org"))
        options = {"tls_context": context, "require_starttls": True, "auth_required": True}
    server = Controller(
        mailbox, hostname="127.0.0.1", port=port, ready_timeout=60, authenticator=Login(), **options
    )
    server.start()
    try:
        yield mailbox, port
    finally:
        server.stop()


def mailing(folder: Path, port: int, user: str = "node") -> AlertSettings:
    (folder / "password").write_text("Sesame7\n")
    return AlertSettings(
        mail_to=("a@example.org",), mail_from="node@example.org", smtp_host="127.0.0.1", smtp_port=port,
        smtp_user=user, smtp_password_file=folder / "password",
    )  # fmt: skip


NEWS = News(1, "dead_letter", "", Phase.BEGUN, utc_now(), "a result was given up")
MESSAGE = Message("LESIONNODE", (NEWS,))


def test_mail_goes_by_starttls_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "ca")
    with mail_server(authority) as (mailbox, port):
        with pytest.raises(TransientError, match="SSLCertVerificationError"):
            Mail(mailing(tmp_path, port)).send(MESSAGE)  # nobody we believe signed its certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        with pytest.raises(TransientError, match="SMTPAuthenticationError"):
            Mail(mailing(tmp_path, port, user="nobody")).send(MESSAGE)
        assert mailbox.envelopes == []
        Mail(mailing(tmp_path, port)).send(MESSAGE)
    (envelope,) = mailbox.envelopes
    assert "a result was given up" in str(message_from_bytes(envelope.content).get_payload())


def test_no_mail_and_no_password_go_to_a_server_without_starttls(tmp_path: Path) -> None:
    with mail_server(None) as (mailbox, port), pytest.raises(TransientError, match="SMTPNotSupported"):
        Mail(mailing(tmp_path, port)).send(MESSAGE)
    assert mailbox.envelopes == []
