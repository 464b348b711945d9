"""Removes the files of studies that are done and old: the rows are marked first, then the files go.

A crash in between leaves files whose rows say that they are gone; the sweep (sweep.py) removes them. A row
that says "here" always has its file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.tables import DeliveryRow, InstanceRow, JobRow, ResultRow, StudyRow
from dicomnode.settings.retention import RetentionSettings

STUDIES_AT_ONCE = 20
FILES_AT_ONCE = 50
"""Removed in one transaction: receiving waits so long."""

Row = InstanceRow | ResultRow
T = TypeVar("T", InstanceRow, ResultRow)


@dataclass(frozen=True)
class Purgeable:
    """What may go of one study."""

    study_instance_uid: str
    inputs: tuple[InstanceRow, ...]
    results: tuple[ResultRow, ...]

    @property
    def rows(self) -> list[InstanceRow | ResultRow]:
        """All of it."""
        return [*self.inputs, *self.results]

    @property
    def size_bytes(self) -> int:
        """Size of the files that are there."""
        paths = [Path(row.path) for row in self.rows]
        return sum(path.stat().st_size for path in paths if path.exists())


class Retention:
    """Purges by the rules. `audit` says on whose behalf."""

    def __init__(self, rules: RetentionSettings, database: Database, audit: Audit) -> None:
        self._rules = rules
        self._database = database
        self._audit = audit

    def purge_due(self) -> list[Purgeable]:
        """Purge some studies that are due; returns what went."""
        return [gone for uid in self._due_studies(STUDIES_AT_ONCE) if (gone := self._purge(uid)) is not None]

    def due(self, limit: int) -> list[Purgeable]:
        """What would go, without touching it."""
        uids = self._due_studies(limit)
        with self._database.snapshot() as session:
            return [self._purgeable(session, uid) for uid in uids]

    def _due_studies(self, limit: int) -> list[str]:
        due: dict[str, None] = {}
        with self._database.snapshot() as session:
            for table, days in (
                (InstanceRow, self._rules.inputs_days),
                (ResultRow, self._rules.results_days),
            ):
                if days is not None:
                    query = select(StudyRow.study_instance_uid).where(*_is_done(days), _holds(table))
                    due |= dict.fromkeys(session.scalars(query.limit(limit)))
        return list(due)[:limit]

    def _purgeable(self, session: Session, study_instance_uid: str) -> Purgeable:
        """Decided anew, for a late image or a replay may have come."""
        return Purgeable(
            study_instance_uid,
            _kept(session, InstanceRow, study_instance_uid, self._rules.inputs_days),
            _kept(session, ResultRow, study_instance_uid, self._rules.results_days),
        )

    def _purge(self, study_instance_uid: str) -> Purgeable | None:
        with self._database.transaction() as session:
            gone = self._purgeable(session, study_instance_uid)
            self._mark(session, study_instance_uid, "inputs", gone.inputs)
            self._mark(session, study_instance_uid, "results", gone.results)
        for start in range(0, len(gone.rows), FILES_AT_ONCE):
            remove_files(self._database, gone.rows[start : start + FILES_AT_ONCE])
        return gone if gone.rows else None

    def _mark(self, session: Session, study_instance_uid: str, kind: str, rows: Sequence[Row]) -> None:
        by_series: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            row.purged_at = utc_now()
            by_series[row.series_instance_uid].append(row)
        for series_instance_uid, of_series in by_series.items():
            self._audit.record(
                session,
                Event.INSTANCES_PURGED,
                Subject(study_instance_uid, series_instance_uid),
                kind=kind,
                instance_count=len(of_series),
                sha256=sorted(row.sha256 for row in of_series),
            )


def remove_files(database: Database, rows: Iterable[Row]) -> None:
    """Remove the files of rows that still say that they are purged.

    Within a writing transaction: who takes an instance in again looks for its file in one too, so either
    this sees that it is wanted again, or that one sees that it is gone and writes it anew.
    """
    with database.transaction() as session:
        for row in rows:
            now: Row | None
            if isinstance(row, InstanceRow):
                now = session.get(InstanceRow, row.id, with_for_update=True)
            else:
                now = session.get(ResultRow, row.sop_instance_uid, with_for_update=True)
            if now is not None and now.purged_at is not None:
                Path(now.path).unlink(missing_ok=True)


def _kept(session: Session, table: type[T], study_instance_uid: str, days: float | None) -> tuple[T, ...]:
    """Rows of a study that is done whose files are here; none without a rule."""
    study = StudyRow.study_instance_uid == study_instance_uid
    if (
        days is None
        or session.scalar(select(StudyRow.study_instance_uid).where(study, *_is_done(days))) is None
    ):
        return ()
    of_study = select(table).where(table.study_instance_uid == study_instance_uid, table.purged_at.is_(None))
    return tuple(session.scalars(of_study))


def _holds(table: type[InstanceRow] | type[ResultRow]) -> ColumnElement[bool]:
    return exists().where(table.study_instance_uid == StudyRow.study_instance_uid, table.purged_at.is_(None))


def _is_done(days: float) -> tuple[ColumnElement[bool], ...]:
    """Nothing is open about a study, and everything about it is older than so many days.

    What failed, was parked or could not be delivered is not done: somebody may want to try again.
    """
    before = utc_now() - timedelta(days=days)
    study = StudyRow.study_instance_uid
    ended = (JobState.SUCCEEDED.value, JobState.SUPERSEDED.value)
    jobs = exists().where(
        JobRow.study_instance_uid == study,
        or_(JobRow.state.not_in(ended), JobRow.finished_at.is_(None), JobRow.finished_at >= before),
    )
    deliveries = exists().where(
        DeliveryRow.sop_instance_uid == ResultRow.sop_instance_uid,
        ResultRow.study_instance_uid == study,
        or_(
            DeliveryRow.state != DeliveryState.DELIVERED.value,
            DeliveryRow.delivered_at.is_(None),
            DeliveryRow.delivered_at >= before,
        ),
    )
    arrivals = exists().where(InstanceRow.study_instance_uid == study, InstanceRow.received_at >= before)
    return (
        StudyRow.state.in_((StudyState.ROUTED.value, StudyState.IGNORED.value)),
        StudyRow.last_received_at < before,
        ~jobs,
        ~deliveries,
        ~arrivals,
    )
