"""Looks at the TLS files of the node as an administrator would: can they be used, and for how long?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from dicomnode.errors import ConfigurationError
from dicomnode.settings.network import TlsSettings
from dicomnode.tls import new_context

SOON_DAYS = 30


def check_certificates(files: TlsSettings, now: datetime | None = None) -> Iterator[tuple[bool, str]]:
    """Whether each thing about the files is good, in a sentence."""
    try:
        new_context(files, server=True)
    except ConfigurationError as error:
        yield False, str(error)
    else:
        yield True, f"certificate {files.certificate.name} fits its key and can be used on port {files.port}"
    now = now or datetime.now(UTC)
    for path in (files.certificate, files.authorities):
        yield from _check_dates(path, now)
    for secret in (files.key, files.key_password_file):
        if secret is not None and secret.exists() and secret.stat().st_mode & 0o077:
            yield False, f"{secret} can be read by others than the node's user; chmod 600 it"


def _check_dates(path: Path, now: datetime) -> Iterator[tuple[bool, str]]:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return  # that it cannot be read is told already
    for certificate in found:
        name = certificate.subject.rfc4514_string()
        until = certificate.not_valid_after_utc
        days = (until - now).days
        if until <= now:
            yield False, f"{path.name}: {name} expired on {until:%Y-%m-%d}; renew it"
        elif certificate.not_valid_before_utc > now:
            yield False, f"{path.name}: {name} is not valid before {certificate.not_valid_before_utc}"
        elif days < SOON_DAYS:
            yield False, f"{path.name}: {name} expires on {until:%Y-%m-%d}, in {days} days; renew it"
        else:
            yield True, f"{path.name}: {name} is valid until {until:%Y-%m-%d}"
