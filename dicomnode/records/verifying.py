"""The whole check of the audit trail: every seal, and every anchor with its signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from dicomnode.records.anchors import check_anchors, private_key, read_anchors
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import ChainCheck, Damage, Fault, verify_chain
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow

_ANCHORED = (
    select(AuditRow).where(AuditRow.event == Event.ANCHOR_WRITTEN.value).order_by(AuditRow.id).limit(1)
)


def verify_trail(
    database: Database,
    anchors: Path,
    key: Ed25519PublicKey | None,
    progress: Callable[[int], None] = lambda _: None,
) -> ChainCheck:
    """Walk along the whole trail. Raises PermanentError when the anchors cannot be read.

    The trail tells of each anchor, so that a file that is gone, or was begun anew, shows too.
    """
    with database.snapshot() as session:
        first = session.scalar(_ANCHORED)  # before the file is read: a node writes there first
    known = read_anchors(anchors)
    faults = [Fault(Damage.ANCHOR, fault.told, anchor=fault.day) for fault in check_anchors(known, key)]
    with database.snapshot() as session:
        check = verify_chain(session, known, progress)
    if first is not None and first.detail.get("last_sha256") not in {anchor.last_sha256 for anchor in known}:
        told = f"{anchors} does not hold the anchor that was written first; bring the file back from a copy"
        faults.append(Fault(Damage.ANCHOR, told, first.id, first.at, first.detail.get("day")))
    return ChainCheck(**{**vars(check), "faults": (*check.faults, *faults)})


def own_key(signing_key: Path | None) -> Ed25519PublicKey | None:
    """The public half of the key that this node signs anchors with."""
    return private_key(signing_key).public_key() if signing_key else None


def record_check(database: Database, audit: Audit, check: ChainCheck) -> None:
    """Write down that somebody checked the trail, and what was found."""
    with database.transaction() as session:
        audit.record(
            session,
            Event.AUDIT_VERIFIED,
            Subject(),
            event_count=check.event_count,
            anchor_count=check.anchor_count,
            fault_count=len(check.faults),
            broken_at=check.broken_at,
        )
