"""The tables of what the node watches and whom it tells: peers, alerts, syslog receivers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from dicomnode.records.column_types import LargeNumber
from dicomnode.records.tables import Base


class PeerCheckRow(Base):
    """How a peer answered the node's own C-ECHO the last time."""

    __tablename__ = "peer_checks"

    peer: Mapped[str] = mapped_column(primary_key=True)
    checked_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    """When it last answered; failing since `failing_since`, when it does not."""
    failing_since: Mapped[datetime | None]
    problem: Mapped[str | None]


class AlertRow(Base):
    """One trouble from its beginning to its end."""

    __tablename__ = "alerts"
    __table_args__ = (Index("alerts_by_end", "ended_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    began_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class AlertMessageRow(Base):
    """That a channel was told of the beginning or the end of an alert."""

    __tablename__ = "alert_messages"

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[datetime]


class SyslogCursorRow(Base):
    """How far a receiver of audit messages has been told the trail."""

    __tablename__ = "syslog_cursors"

    target: Mapped[str] = mapped_column(primary_key=True)
    """Its name in the configuration."""
    last_event_id: Mapped[int] = mapped_column(LargeNumber)
    sent_at: Mapped[datetime]
