"""Passwords, kept as Argon2id (RFC 9106) alone."""

from __future__ import annotations

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicomnode.errors import PermanentError

SHORTEST = 10
LONGEST = 1024
"""Hashing more than anybody types would only cost time."""

_HASHER = PasswordHasher()


def hash_password(password: str) -> str:
    """The hash to keep. Raises PermanentError for a password that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise PermanentError(f"a password has {SHORTEST} to {LONGEST} characters; choose another")
    return _HASHER.hash(password)


def is_password(password_hash: str | None, password: str) -> bool:
    """Whether `password` is the one of the hash; takes as long where there is none to compare with."""
    if len(password) > LONGEST:
        return False
    try:
        matches: bool = _HASHER.verify(password_hash or _nobodys_hash(), password)
    except (VerificationError, InvalidHashError):
        return False
    return matches and password_hash is not None


@cache
def _nobodys_hash() -> str:
    return _HASHER.hash("nobody has this password")
