"""Anchors: once a day the length and the last seal of the trail, written outside of the database.

One line of JSON for each day in a file that only grows. Each names the digest of the line before, and
is signed with an Ed25519 key where one is configured. A trail that was cut or rewritten no longer
fits the anchors from before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from dicomnode.errors import ConfigurationError, PermanentError

FIRST = "0" * 64


@dataclass(frozen=True)
class Anchor:
    """How long the trail was at one time, and the seal of its last event."""

    day: date
    """UTC."""
    written_at: datetime
    event_count: int
    last_id: int
    last_sha256: str
    previous: str
    """SHA-256 of the line before; 64 zeros for the first one."""
    signature: str | None = None
    """Ed25519, hexadecimal, over the line without it."""

    def line(self) -> bytes:
        """The line of the file."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        values |= {"day": self.day.isoformat(), "written_at": self.written_at.isoformat()}
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """What the next anchor names."""
        return hashlib.sha256(self.line()).hexdigest()

    def signed(self, key: Ed25519PrivateKey) -> Anchor:
        """The same with its signature."""
        return replace(self, signature=key.sign(replace(self, signature=None).line()).hex())

    def is_signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether the signature is there and fits."""
        try:
            key.verify(bytes.fromhex(self.signature or ""), replace(self, signature=None).line())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class AnchorFault:
    """A line of an anchor file that does not hold."""

    day: str | None
    told: str


def write_anchor(path: Path, anchor: Anchor) -> None:
    """Append one line, durably and whole. Raises OSError when the disk does not take it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = anchor.line() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        content = path.read_bytes()
        whole_bytes = _whole_bytes(content)
        if whole_bytes != len(content):
            os.ftruncate(descriptor, whole_bytes)
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, whole_bytes)
            raise
    finally:
        os.close(descriptor)


def _whole_bytes(content: bytes) -> int:
    """Up to the end of the last line; a loss of power may have torn what follows."""
    return content.rfind(b"\n") + 1


def read_anchors(path: Path) -> list[Anchor]:
    """The anchors of a file, oldest first; none when it is not there yet.

    A last line without its end is none: the next anchor takes its place.
    Raises PermanentError naming the first line that is no anchor.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PermanentError(f"the anchors {path} cannot be read ({error.strerror})") from error
    lines = content[: _whole_bytes(content)].splitlines()
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _parse(path: Path, number: int, line: bytes) -> Anchor:
    try:
        values: dict[str, Any] = json.loads(line)
        values["day"] = date.fromisoformat(values["day"])
        values["written_at"] = datetime.fromisoformat(values["written_at"])
        return Anchor(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise PermanentError(
            f"line {number} of {path} is no anchor: it was damaged; compare with a copy from elsewhere"
        ) from error


def check_anchors(anchors: list[Anchor], key: Ed25519PublicKey | None) -> Iterator[AnchorFault]:
    """What does not hold among the anchors themselves: links, order, and signatures when `key` is given."""
    previous = FIRST
    for anchor in anchors:
        day = anchor.day.isoformat()
        if anchor.previous != previous:
            yield AnchorFault(day, f"the anchor of {day} does not follow the one before it in the file")
        if key is not None and not anchor.is_signed_by(key):
            yield AnchorFault(day, f"the anchor of {day} is not signed by the key of this node")
        previous = anchor.digest


def private_key(path: Path) -> Ed25519PrivateKey:
    """The signing key of a PEM file. Raises ConfigurationError when it is none."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"audit.signing_key: {path} is no readable private key ({type(error).__name__}); "
            "make one with: openssl genpkey -algorithm ed25519 -out FILE"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"audit.signing_key: {path} is not an Ed25519 key")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key of a PEM file. Raises PermanentError when it is none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PermanentError(f"{path} is no readable public key ({type(error).__name__})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise PermanentError(f"{path} is not an Ed25519 key")
    return key
