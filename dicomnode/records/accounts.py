"""Who may use the web page: people, their roles, and their open sessions."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ForeignKey, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from dicomnode.errors import PermanentError
from dicomnode.records.db import utc_now
from dicomnode.records.tables import Base

SEEN_INTERVAL = timedelta(seconds=60)
"""A session's last use is written down at most this often: reading a page seldom writes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@\\-]{0,63}")


class Role(StrEnum):
    """What a person may do; each role may do what the one before it may."""

    VIEWER = "viewer"
    """See studies, queues and models."""
    AUDITOR = "auditor"
    """Read, verify and export the audit; see the configuration."""
    ADMIN = "admin"
    """Change something: replay, models."""


class UserRow(Base):
    """One person. Without a password only a reverse proxy can let them in."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    password_hash: Mapped[str | None]
    created_at: Mapped[datetime]


class SessionRow(Base):
    """One login that is still open. Its token is in the browser alone; here is its digest."""

    __tablename__ = "web_sessions"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    user_name: Mapped[str] = mapped_column(ForeignKey("users.name"), index=True)
    csrf_token: Mapped[str]
    address: Mapped[str]
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


@dataclass(frozen=True)
class SessionLimits:
    """How long a session lasts: at all, and without being used."""

    longest: timedelta
    idle: timedelta


def find_user(session: Session, name: str) -> UserRow:
    """The person of this name. Raises PermanentError when there is none."""
    user = session.get(UserRow, name)
    if user is None:
        raise PermanentError(f"no user is called {name!r}; see: dicomnode users list")
    return user


def add_user(session: Session, name: str, role: Role, password_hash: str | None) -> UserRow:
    """Add a person. Raises PermanentError when the name is taken or not one."""
    if _NAME.fullmatch(name) is None:
        raise PermanentError(f"{name!r} is no user name: up to 64 letters, digits and any of . _ - @ \\")
    if session.get(UserRow, name) is not None:
        raise PermanentError(f"a user is called {name!r} already; change it with: dicomnode users change")
    user = UserRow(name=name, role=role.value, password_hash=password_hash, created_at=utc_now())
    session.add(user)
    session.flush()
    return user


def remove_user(session: Session, user: UserRow) -> None:
    """Remove a person and end their sessions; what the audit says of them stays."""
    end_sessions(session, user.name)
    session.delete(user)


def end_sessions(session: Session, user_name: str) -> None:
    """Log a person out everywhere."""
    session.execute(delete(SessionRow).where(SessionRow.user_name == user_name))


def open_session(session: Session, user: UserRow, address: str) -> tuple[str, SessionRow]:
    """A new session; the token goes to the browser and is kept nowhere else."""
    token = secrets.token_urlsafe(32)
    row = SessionRow(
        token_sha256=digest_of(token),
        user_name=user.name,
        csrf_token=secrets.token_urlsafe(32),
        address=address,
        created_at=utc_now(),
        last_seen_at=utc_now(),
    )
    session.add(row)
    session.flush()
    return token, row


def session_of(session: Session, token: str, limits: SessionLimits) -> tuple[SessionRow, UserRow] | None:
    """The open session of a token and its person; None when there is none, or it has run out."""
    found = session.execute(
        select(SessionRow, UserRow)
        .join(UserRow, UserRow.name == SessionRow.user_name)
        .where(SessionRow.token_sha256 == digest_of(token))
    ).one_or_none()
    if found is None:
        return None
    row, user = found
    now = utc_now()
    if now > row.created_at + limits.longest or now > row.last_seen_at + limits.idle:
        return None
    return row, user


def keep_open(session: Session, row: SessionRow) -> None:
    """Write down that a session is in use."""
    kept = session.get(SessionRow, row.token_sha256)
    if kept is not None:
        kept.last_seen_at = utc_now()


def remove_old_sessions(session: Session, limits: SessionLimits) -> None:
    """Forget sessions that have run out."""
    now = utc_now()
    session.execute(
        delete(SessionRow).where(
            (SessionRow.created_at < now - limits.longest) | (SessionRow.last_seen_at < now - limits.idle)
        )
    )


def digest_of(token: str) -> str:
    """What is stored of a session's token: who reads the database cannot use it."""
    return hashlib.sha256(token.encode()).hexdigest()
