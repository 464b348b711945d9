"""Takes one received instance: durable on disk, recorded, and only then acknowledged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from io import BytesIO

from pydicom import Dataset, dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.encode.recognise import is_own_result
from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import StudyState, moved
from dicomnode.records.tables import InstanceRow, ResultRow, StudyRow
from dicomnode.spool import Spool
from dicomnode.study import text
from dicomnode.urgency import more_urgent, urgency


class Outcome(StrEnum):
    """What became of a received instance."""

    NEW = "new"
    REPEATED = "repeated"
    """The very same content is here already: nothing to do."""
    ALTERED = "altered"
    """The same SOP Instance UID with other content: kept as a further version."""
    OWN_RESULT = "own_result"
    """An object made by a node of our kind: kept, never processed."""


OUTCOME_EVENTS = {
    Outcome.NEW: Event.INSTANCE_RECEIVED,
    Outcome.REPEATED: Event.INSTANCE_REPEATED,
    Outcome.ALTERED: Event.INSTANCE_ALTERED,
    Outcome.OWN_RESULT: Event.OWN_RESULT_RECEIVED,
}


@dataclass(frozen=True)
class Origin:
    """Who sent something, and to which of our AE titles."""

    calling_ae_title: str
    address: str
    called_ae_title: str


@dataclass(frozen=True)
class Arrival:
    """The bytes of one C-STORE request: file meta information and data set as sent."""

    file_header: bytes
    """Preamble, prefix and file meta information (PS3.10 section 7.1)."""
    encoded: bytes
    """The data set exactly as received."""
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    origin: Origin


@dataclass(frozen=True)
class Identity:
    """What the node needs to know of an instance to file it."""

    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    accession_number: str
    urgency: str | None
    """RequestedProcedurePriority (0040,1003), when the images say it."""
    own_result: bool


class Intake:
    """Stores and records arrivals. One per receiving process; safe to call from many threads."""

    def __init__(self, spool: Spool, database: Database, audit: Audit) -> None:
        self._spool = spool
        self._database = database
        self._audit = audit

    def take(self, arrival: Arrival) -> Outcome:
        """Store and record one instance; when this returns, it can no longer be lost.

        Raises PermanentError when the data set cannot be understood or contradicts the request,
        OSError when the disk, and SQLAlchemyError when the database does not take it.
        """
        identity = identify(arrival)
        sha256 = hashlib.sha256(arrival.encoded).hexdigest()
        path = self._spool.instance_path(
            identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid, sha256
        )
        if path.exists():  # a crash or another association may have stopped short of the folders
            self._spool.sync_folders(path.parent)
        else:
            self._spool.write(path, arrival.file_header, arrival.encoded)
        with self._database.transaction() as session:
            return self._record(session, arrival, identity, sha256, str(path))

    def _record(
        self, session: Session, arrival: Arrival, identity: Identity, sha256: str, path: str
    ) -> Outcome:
        now = utc_now()
        known = session.scalars(
            select(InstanceRow.sha256).where(InstanceRow.sop_instance_uid == arrival.sop_instance_uid)
        ).all()
        own = identity.own_result or session.get(ResultRow, arrival.sop_instance_uid) is not None
        if sha256 in known:
            outcome = Outcome.REPEATED
        elif own:
            outcome = Outcome.OWN_RESULT
        else:
            outcome = Outcome.ALTERED if known else Outcome.NEW
        subject = Subject(identity.study_instance_uid, identity.series_instance_uid, arrival.sop_instance_uid)
        if outcome is not Outcome.REPEATED:
            study = _study_row(session, identity, arrival.origin, now)
            if outcome is not Outcome.OWN_RESULT:
                study.urgency = more_urgent(study.urgency, identity.urgency)
                self._note_activity(session, study, now)
            session.add(_instance_row(arrival, identity, sha256, path, now, len(known) + 1, own))
        self._audit.record(
            session,
            OUTCOME_EVENTS[outcome],
            subject,
            calling_ae_title=arrival.origin.calling_ae_title,
            address=arrival.origin.address,
            sha256=sha256,
        )
        return outcome

    def _note_activity(self, session: Session, study: StudyRow, now: datetime) -> None:
        """Something new arrived: the study is being received (again)."""
        study.last_received_at = now
        if study.state == StudyState.RECEIVING:
            return
        study.state = moved(StudyState(study.state), StudyState.RECEIVING).value
        study.generation += 1
        study.first_received_at = now
        study.completed_at = study.completed_by = study.held_reason = None
        self._audit.record(
            session,
            Event.STUDY_REOPENED,
            Subject(study.study_instance_uid),
            generation=study.generation,
        )


def identify(arrival: Arrival) -> Identity:
    """Read the identifying attributes of an arrival from its bytes.

    Raises PermanentError when they are missing, or contradict the C-STORE request.
    """
    header = _read_header(arrival)
    for keyword in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not text(header, keyword):
            raise PermanentError(f"the data set has no {keyword}")
    for keyword, requested in (
        ("SOPInstanceUID", arrival.sop_instance_uid),
        ("SOPClassUID", arrival.sop_class_uid),
    ):
        if text(header, keyword) != requested:
            raise PermanentError(f"{keyword} of the data set is not the one of the C-STORE request")
    return Identity(
        study_instance_uid=text(header, "StudyInstanceUID"),
        series_instance_uid=text(header, "SeriesInstanceUID"),
        patient_id=text(header, "PatientID"),
        accession_number=text(header, "AccessionNumber"),
        urgency=urgency(header),
        own_result=is_own_result(header),
    )


def _read_header(arrival: Arrival) -> Dataset:
    try:
        return dcmread(BytesIO(arrival.file_header + arrival.encoded), stop_before_pixels=True)
    except Exception as error:  # pydicom raises anything on malformed bytes
        raise PermanentError(f"the data set cannot be read ({type(error).__name__})") from error


def _study_row(session: Session, identity: Identity, origin: Origin, now: datetime) -> StudyRow:
    study = session.get(StudyRow, identity.study_instance_uid)
    if study is None:
        study = StudyRow(
            study_instance_uid=identity.study_instance_uid,
            state=StudyState.RECEIVING.value,
            generation=1,
            patient_id=identity.patient_id,
            accession_number=identity.accession_number,
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
    sha256: str,
    path: str,
    now: datetime,
    version: int,
    own_result: bool,
) -> InstanceRow:
    return InstanceRow(
        sop_instance_uid=arrival.sop_instance_uid,
        sop_class_uid=arrival.sop_class_uid,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        version=version,
        own_result=own_result,
        sha256=sha256,
        size_bytes=len(arrival.encoded),
        path=path,
        calling_ae_title=arrival.origin.calling_ae_title,
        calling_address=arrival.origin.address,
        received_at=now,
    )
