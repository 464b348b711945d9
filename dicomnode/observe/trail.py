"""Whether the audit trail holds: checked by the node itself once a day, and remembered in the trail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit, Event
from dicomnode.records.chain import ChainCheck, Damage, Fault, verify_chain
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import AuditRow
from dicomnode.records.verifying import own_key, record_check, verify_trail
from dicomnode.settings.node import Settings

CHECK_EVERY = timedelta(days=1)

log = structlog.get_logger()


def latest_check(session: Session) -> AuditRow | None:
    """The event of the last check, whoever made it."""
    query = select(AuditRow).where(AuditRow.event == Event.AUDIT_VERIFIED.value)
    return session.scalar(query.order_by(AuditRow.id.desc()).limit(1))


def verify_daily(settings: Settings, database: Database, audit: Audit) -> None:
    """Check the whole trail, unless somebody did within the last day."""
    with database.snapshot() as session:
        latest = latest_check(session)
    if latest is None or abs(utc_now() - latest.at) >= CHECK_EVERY:  # a clock may have been ahead
        record_check(database, audit, _checked(settings, database))


def _checked(settings: Settings, database: Database) -> ChainCheck:
    """The whole check; anchors that cannot be read are a fault of the trail too."""
    key = own_key(settings.audit.signing_key)
    try:
        return verify_trail(database, settings.anchors, key)
    except PermanentError as error:
        log.error("anchors_not_read", reason=str(error))
        with database.snapshot() as session:
            check = verify_chain(session)
        return replace(check, faults=(*check.faults, Fault(Damage.ANCHOR, str(error))))
