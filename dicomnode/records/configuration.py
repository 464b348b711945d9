"""Notes in the trail what became different in the configuration since the node last started."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.tables import AuditRow
from dicomnode.settings.listing import lines_of
from dicomnode.settings.node import Settings


def note_configuration(session: Session, audit: Audit, settings: Settings, file_sha256: str) -> None:
    """Record every key whose value changed, with both values; nothing when none did.

    The forms in the profiles of peers count as keys. The event carries all keys that are not at their
    defaults, for the next one to compare with. Secrets are in neither: of an address whose hidden part
    changed only the digest of the file tells.
    """
    lines = [line for name in type(settings).model_fields for line in lines_of(name, getattr(settings, name))]
    defaults = {line.key: line.default for line in lines}
    now = {line.key: line.value for line in lines if not line.is_default} | _profiles(settings)
    latest = session.scalar(
        select(AuditRow)
        .where(AuditRow.event == Event.CONFIGURATION_CHANGED.value)
        .order_by(AuditRow.at.desc(), AuditRow.id.desc())
        .limit(1)
    )
    before: dict[str, str] = latest.detail["configuration"] if latest else {}
    changed = {
        key: {
            "old": before.get(key, defaults.get(key, "not set")),
            "new": now.get(key, defaults.get(key, "not set")),
        }
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    }
    same_file = latest is not None and latest.detail["configuration_sha256"] == file_sha256
    if changed or not same_file:
        audit.record(
            session,
            Event.CONFIGURATION_CHANGED,
            Subject(),
            changed=changed,
            configuration_sha256=file_sha256,
            configuration=now,
        )


def _profiles(settings: Settings) -> dict[str, str]:
    """The forms of results of each peer that was probed; they may be changed by hand, outside `node.toml`."""
    found = {peer.name: settings.profile_of(peer) for peer in settings.peer}
    return {f"profile[{name}].forms": ", ".join(profile.forms) for name, profile in found.items() if profile}
