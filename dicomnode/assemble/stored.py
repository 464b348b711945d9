"""The headers of what is stored of a study."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError

from dicomnode.records.tables import InstanceRow
from dicomnode.study import Instance, Study, group_studies, read_instance

log = structlog.get_logger()


def read_study(rows: Iterable[InstanceRow]) -> tuple[Study, ...]:
    """The study that these instances make up, none when there are none. What is damaged is logged.

    Raises OSError: a disk that cannot be read now says nothing of an instance.
    """
    return group_studies(found for row in rows if (found := _read(row)) is not None)


def _read(row: InstanceRow) -> Instance | None:
    try:
        return read_instance(Path(row.path), row.sha256)
    except InvalidDicomError as error:
        log.error("instance_unreadable", sop_instance_uid=row.sop_instance_uid, error=type(error).__name__)
        return None
