"""How far the receivers of audit messages are behind the trail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.records.db import utc_now
from dicomnode.records.tables import AuditRow
from dicomnode.records.watch_tables import SyslogCursorRow
from dicomnode.settings.audit import SyslogSettings


@dataclass(frozen=True)
class Lag:
    """What one receiver has not had yet."""

    target: str
    events: int
    oldest_s: float
    """Age of the oldest event that it has not had; 0 when it has had all."""
    sent_at: datetime | None
    """When it last took something."""


def lags(session: Session, targets: Iterable[SyslogSettings]) -> list[Lag]:
    """The lag of every receiver in the configuration."""
    return [_lag(session, target.name) for target in targets]


def _lag(session: Session, target: str) -> Lag:
    cursor = session.get(SyslogCursorRow, target)
    missing = AuditRow.id > (cursor.last_event_id if cursor else 0)
    count = session.scalar(select(func.count()).select_from(AuditRow).where(missing)) or 0
    oldest = session.scalar(select(AuditRow.at).where(missing).order_by(AuditRow.id).limit(1))
    oldest_s = max(0.0, (utc_now() - oldest).total_seconds()) if oldest else 0.0
    return Lag(target, count, oldest_s, cursor.sent_at if cursor else None)
