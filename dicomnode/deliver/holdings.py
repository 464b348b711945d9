"""Whether an instance is safely here: recorded, on the disk, and byte for byte what was sent."""

from __future__ import annotations

from pathlib import Path

import structlog
from pynetdicom import AllStoragePresentationContexts
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.deliver.references import Reference
from dicomnode.records.tables import InstanceRow
from dicomnode.spool import data_set_sha256

PROCESSING_FAILURE = 0x0110
NO_SUCH_OBJECT = 0x0112
CLASS_CONFLICT = 0x0119
CLASS_NOT_SUPPORTED = 0x0122

STORAGE_CLASSES = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)

log = structlog.get_logger()


def why_not_held(session: Session, reference: Reference) -> int | None:
    """Why we cannot commit to an instance, as Failure Reason (PS3.3 C.14.1.1); None when we can.

    Of several contents under one UID the newest counts. What retention removed is not here any more.
    """
    known = select(InstanceRow).where(
        InstanceRow.sop_instance_uid == reference.sop_instance_uid, InstanceRow.purged_at.is_(None)
    )
    row = session.scalar(known.order_by(InstanceRow.version.desc(), InstanceRow.id.desc()).limit(1))
    if row is None:
        return NO_SUCH_OBJECT if reference.sop_class_uid in STORAGE_CLASSES else CLASS_NOT_SUPPORTED
    if row.sop_class_uid != reference.sop_class_uid:
        return CLASS_CONFLICT
    try:
        intact = data_set_sha256(Path(row.path)) == row.sha256
    except FileNotFoundError:
        log.error("stored_file_missing", path=row.path)
        return NO_SUCH_OBJECT
    except OSError as error:
        log.error("stored_file_unreadable", path=row.path, error=error.strerror)
        return PROCESSING_FAILURE
    if not intact:
        log.error("stored_file_damaged", path=row.path)
        return PROCESSING_FAILURE
    return None
