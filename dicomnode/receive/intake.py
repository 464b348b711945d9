"""Takes one received instance: durable on disk, recorded, and only then acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from dicomnode.receive.arrival import Arrival, Identity, Origin, identify
from dicomnode.receive.judge import Judge
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import StudyState, moved
from dicomnode.records.tables import InstanceRow, ResultRow, StudyRow
from dicomnode.spool import Spool
from dicomnode.urgency import more_urgent

INSTANCES = InstanceRow.metadata.tables[InstanceRow.__tablename__]
LONGEST_NUMBER = 256
"""Of a patient or accession, as it is looked up; the standard allows 64 and 16, an index no 2700 bytes."""
COMPARED_VERSIONS = 3
"""A peer that alters an instance again and again does not make each arrival dearer."""


class Outcome(StrEnum):
    """What became of a received instance."""

    NEW = "new"
    REPEATED = "repeated"
    """The very same content is here already: nothing to do."""
    ALTERED = "altered"
    """The same SOP Instance UID with other content: kept as a further version."""
    RECODED = "recoded"
    """What is here already, encoded differently (another transfer syntax, say): kept, nothing to do."""
    OWN_RESULT = "own_result"
    """An object made by a node of our kind: kept, never processed."""


OUTCOME_EVENTS = {
    Outcome.NEW: Event.INSTANCE_RECEIVED,
    Outcome.REPEATED: Event.INSTANCE_REPEATED,
    Outcome.RECODED: Event.INSTANCE_RECODED,
    Outcome.ALTERED: Event.INSTANCE_ALTERED,
    Outcome.OWN_RESULT: Event.OWN_RESULT_RECEIVED,
}


@dataclass(frozen=True)
class Stored:
    """Where the bytes of an arrival are now, and the version that they repeat in another encoding."""

    path: str
    sha256: str
    twin: InstanceRow | None


@dataclass(frozen=True)
class Found:
    """What the database says of the SOP Instance UID of an arrival that came `at` some time."""

    versions: list[InstanceRow]
    is_result: bool
    at: datetime


@dataclass(frozen=True)
class Recorded:
    """What became of an arrival, and its row in the table of instances, unless there is one already."""

    outcome: Outcome
    row: dict[str, Any] | None


class Intake:
    """Stores and records arrivals. One per receiving process; safe to call from many threads."""

    def __init__(self, spool: Spool, database: Database, audit: Audit) -> None:
        self._spool = spool
        self._database = database
        self._audit = audit
        self._judge = Judge()

    def close(self) -> None:
        """End what was started beside this process."""
        self._judge.close()

    def take(self, arrival: Arrival) -> Outcome:
        """Store and record one instance; when this returns, it can no longer be lost.

        Raises PermanentError when the data set cannot be understood or contradicts the request,
        OSError when the disk, and SQLAlchemyError when the database does not take it.
        """
        identity = identify(arrival)
        sha256 = arrival.sha256
        path = self._spool.instance_path(
            identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid, sha256
        )
        with self._database.snapshot() as session:
            known = versions_of(session, [arrival.sop_instance_uid])[arrival.sop_instance_uid]
        is_recorded = sha256 in {version.sha256 for version in known}
        if not path.exists():
            self._spool.write(path, arrival.file_header, arrival.encoded)
        elif not is_recorded:
            self._spool.sync_folders(path.parent)  # what wrote it may have stopped short of the folders
        twin = None if is_recorded or identity.own_result else self._twin(path, known)
        with self._database.transaction() as session:
            known = versions_of(session, [arrival.sop_instance_uid])[arrival.sop_instance_uid]
            is_result = session.get(ResultRow, arrival.sop_instance_uid) is not None
            found = Found(known, is_result, utc_now())
            recorded = self.record(session, arrival, identity, Stored(str(path), sha256, twin), found)
            insert_instances(session, [recorded])
            if not path.exists():  # retention removed it at this moment; it cannot while we write here
                self._spool.write(path, arrival.file_header, arrival.encoded)
        return recorded.outcome

    def _twin(self, path: Path, known: list[InstanceRow]) -> InstanceRow | None:
        """The version that says the same as this file, encoded differently."""
        for version in known[:COMPARED_VERSIONS]:
            if not version.own_result and self._judge.same(path, Path(version.path)):
                return version
        return None

    def record(
        self, session: Session, arrival: Arrival, identity: Identity, stored: Stored, found: Found
    ) -> Recorded:
        """Write down, within the caller's transaction, that an arrival is stored; `found` is of the same.

        The caller inserts the row, with those of other arrivals.
        """
        now, known = found.at, found.versions
        own = identity.own_result or found.is_result
        same = next((version for version in known if version.sha256 == stored.sha256), None)
        restored = same is not None and _restore(session, same, now)
        if same is not None:
            outcome = Outcome.REPEATED
        elif own:
            outcome = Outcome.OWN_RESULT
        elif stored.twin is not None:
            outcome = Outcome.RECODED
        else:
            outcome = Outcome.ALTERED if known else Outcome.NEW
        row = None
        subject = Subject(identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid)
        if outcome is not Outcome.REPEATED:
            study = _study_row(session, identity, arrival.origin, now)
            if outcome in (Outcome.NEW, Outcome.ALTERED):
                study.urgency = more_urgent(study.urgency, identity.urgency)
                self._note_activity(session, study, now)
            number = max((version.version for version in known), default=0) + 1
            row = _instance_row(arrival, identity, stored, now, number, own)
        self._audit.record(
            session,
            OUTCOME_EVENTS[outcome],
            subject,
            calling_ae_title=arrival.origin.calling_ae_title,
            address=arrival.origin.address,
            sha256=stored.sha256,
            **({"asked_for": True} if arrival.origin.asked_for else {}),
            **({"restored": True} if restored else {}),
            **_same_as(outcome, stored),
        )
        return Recorded(outcome, row)

    def _note_activity(self, session: Session, study: StudyRow, now: datetime) -> None:
        """Something new arrived: the study is being received (again)."""
        study.last_received_at = max(study.last_received_at, now)  # what a dead receiver left came earlier
        if study.state == StudyState.RECEIVING:
            return
        study.state = moved(StudyState(study.state), StudyState.RECEIVING).value
        study.generation += 1
        study.first_received_at = now
        study.completed_at = study.completed_by = study.held_reason = study.missing = None
        self._audit.record(
            session,
            Event.STUDY_REOPENED,
            Subject(study.study_instance_uid),
            generation=study.generation,
        )


def insert_instances(session: Session, recorded: Iterable[Recorded]) -> None:
    """Insert the rows of what was recorded in this transaction, all at once."""
    rows = [one.row for one in recorded if one.row is not None]
    if rows:
        session.flush()  # their studies
        session.execute(insert(INSTANCES), rows)


def versions_of(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, list[InstanceRow]]:
    """What is recorded under each UID: the newest first, mere repetitions in other encodings last."""
    versions: dict[str, list[InstanceRow]] = {uid: [] for uid in sop_instance_uids}
    rows = session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid.in_(sop_instance_uids)))
    for row in sorted(rows, key=lambda row: (row.same_as is not None, -row.id)):
        versions[row.sop_instance_uid].append(row)
    return versions


def _restore(session: Session, version: InstanceRow, now: datetime) -> bool:
    """A purged instance is here again: no new work, but a study that is coming in waits for the next one."""
    if version.purged_at is None:
        return False
    version.purged_at, version.received_at = None, now
    study = session.get_one(StudyRow, version.study_instance_uid)
    if study.state == StudyState.RECEIVING:
        study.last_received_at = now
    return True


def _same_as(outcome: Outcome, stored: Stored) -> dict[str, str]:
    if outcome is not Outcome.RECODED or stored.twin is None:
        return {}
    return {"same_as_sha256": stored.twin.sha256}


def _study_row(session: Session, identity: Identity, origin: Origin, now: datetime) -> StudyRow:
    study = session.get(StudyRow, identity.study_instance_uid)
    if study is None:
        study = StudyRow(
            study_instance_uid=identity.study_instance_uid,
            state=StudyState.RECEIVING.value,
            generation=1,
            patient_id=identity.patient_id[:LONGEST_NUMBER],
            accession_number=identity.accession_number[:LONGEST_NUMBER],
            calling_ae_title=origin.calling_ae_title,
            first_received_at=now,
            last_received_at=now,
        )
        session.add(study)
        session.flush()
    return study


def _instance_row(
    arrival: Arrival,
    identity: Identity,
    stored: Stored,
    now: datetime,
    version: int,
    own_result: bool,
) -> dict[str, Any]:
    return {
        "sop_instance_uid": arrival.sop_instance_uid,
        "sop_class_uid": arrival.sop_class_uid,
        "transfer_syntax_uid": arrival.transfer_syntax_uid,
        "study_instance_uid": identity.study_instance_uid,
        "series_instance_uid": identity.series_instance_uid,
        "version": stored.twin.version if stored.twin else version,
        "same_as": stored.twin.id if stored.twin else None,
        "own_result": own_result,
        "sha256": stored.sha256,
        "size_bytes": len(arrival.encoded),
        "path": stored.path,
        "calling_ae_title": arrival.origin.calling_ae_title,
        "calling_address": arrival.origin.address,
        "received_at": now,
    }
