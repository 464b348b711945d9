"""Which stored instances make up a study."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.records.tables import InstanceRow


def what_was_purged(rows: Sequence[InstanceRow]) -> str:
    """Why nothing can be done with a study some of whose instances are gone, and what helps."""
    newest = max(row.purged_at for row in rows if row.purged_at is not None)
    return (
        f"{len(rows)} of its instances were purged after their results were delivered, the last on "
        f"{newest:%Y-%m-%d}; have the whole study sent again, then replay it"
    )


def stored_instances(
    session: Session, study_instance_uid: str, until: datetime | None = None
) -> list[InstanceRow]:
    """The newest version of every instance of a study that is not a result of ours; as it was at `until`.

    The newest is the content that came first last: an older version sent again does not count, or two
    senders with different versions would take turns for ever.
    """
    newest = (
        select(func.max(InstanceRow.id))
        .where(
            InstanceRow.study_instance_uid == study_instance_uid,
            InstanceRow.own_result.is_(False),
            InstanceRow.same_as.is_(None),
        )
        .group_by(InstanceRow.sop_instance_uid)
    )
    if until is not None:
        newest = newest.where(InstanceRow.received_at <= until)
    return list(session.scalars(select(InstanceRow).where(InstanceRow.id.in_(newest))))
