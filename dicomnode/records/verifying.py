"""The whole check of the audit trail: every seal, and every anchor with its signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dicomnode.records.anchors import check_anchors, private_key, read_anchors
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import ChainCheck, Damage, Fault, verify_chain
from dicomnode.records.db import Database


def verify_trail(
    database: Database,
    anchors: Path,
    key: Ed25519PublicKey | None,
    progress: Callable[[int], None] = lambda _: None,
) -> ChainCheck:
    """Walk along the whole trail. Raises PermanentError when the anchors cannot be read."""
    known = read_anchors(anchors)
    faults = [Fault(Damage.ANCHOR, fault.told, anchor=fault.day) for fault in check_anchors(known, key)]
    with database.snapshot() as session:
        check = verify_chain(session, known, progress)
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
