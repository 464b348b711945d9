"""Writes the anchor of the day, once, and records in the trail that it was written."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select

from dicomnode.records.anchors import FIRST, Anchor, read_anchors, write_anchor
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import AuditRow


def anchor_of_the_day(
    database: Database, audit: Audit, path: Path, key: Ed25519PrivateKey | None
) -> Anchor | None:
    """Write today's anchor (UTC); None when it is there already, or there is nothing to anchor.

    The event that tells of it carries it too, so it also leaves the node by syslog.
    Raises PermanentError when the file cannot be read, OSError when it cannot be written.
    """
    now = utc_now()
    known = read_anchors(path)
    # Not only the last one: it is of a later day where a clock was ahead.
    if any(anchor.day == now.date() for anchor in known):
        return None
    with database.snapshot() as session:
        last = session.scalar(select(AuditRow).order_by(AuditRow.id.desc()).limit(1))
        if last is None:
            return None
        count = session.scalar(select(func.count()).where(AuditRow.id <= last.id)) or 0
    anchor = Anchor(now.date(), now, count, last.id, last.sha256, known[-1].digest if known else FIRST)
    if key is not None:
        anchor = anchor.signed(key)
    write_anchor(path, anchor)
    with database.transaction() as session:
        audit.record(
            session,
            Event.ANCHOR_WRITTEN,
            Subject(),
            day=anchor.day.isoformat(),
            event_count=anchor.event_count,
            last_id=anchor.last_id,
            last_sha256=anchor.last_sha256,
            signature=anchor.signature,
        )
    return anchor
