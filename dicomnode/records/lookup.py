"""Finds studies by whatever somebody has in hand, and pages through them, newest first.

Every query here runs along an index; `make bench` (stage `pages`) shows how long the pages on them take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Subject
from dicomnode.records.tables import AuditRow, InstanceRow, JobRow, ResultRow, StudyRow

MOST_HITS = 100
LARGEST_JOB_ID = 2**31 - 1


class Named(StrEnum):
    """What an identifier turned out to be."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"
    RESULT = "result"
    """An object that we made."""
    JOB = "job"
    ACCESSION_NUMBER = "accession_number"
    PATIENT_ID = "patient_id"


@dataclass(frozen=True)
class Hit:
    """One thing that an identifier names, and the study that it belongs to."""

    named: Named
    study: StudyRow | None
    """None for an instance that was refused before it belonged to a study."""
    subject: Subject


def find(session: Session, identifier: str, named: Named | None = None) -> list[Hit]:
    """Everything that `identifier` names, at most 100 of a kind, newest first; only `named`, if given.

    A number can be a job, an accession number and a patient ID at once.
    """
    identifier = identifier.strip()
    if not identifier:
        return []
    return [
        hit
        for kind, finder in FINDERS.items()
        if named in (None, kind)
        for hit in finder(session, identifier)
    ]


def find_one(session: Session, identifier: str, named: Named | None = None) -> Hit:
    """The only thing that `identifier` names.

    Raises PermanentError when it names nothing, or several things.
    """
    hits = find(session, identifier, named)
    if not hits:
        raise nothing_known(identifier)
    if len(hits) > 1:
        kinds = ", ".join(sorted({hit.named.value for hit in hits}))
        raise PermanentError(
            f"{identifier!r} names {len(hits)} things ({kinds}); name one of them by its UID"
        )
    return hits[0]


def nothing_known(identifier: str) -> PermanentError:
    """The error that says that an identifier names nothing."""
    return PermanentError(
        f"nothing is known under {identifier!r}; it can be an accession number, a patient ID, a job "
        "number, or the UID of a study, a series, an instance or a result"
    )


def events_about(session: Session, hit: Hit) -> list[AuditRow]:
    """What happened to the thing itself, and what happened around it to its study as a whole, in order."""
    if hit.study is None:
        query = select(AuditRow).where(
            AuditRow.study_instance_uid.is_(None), AuditRow.sop_instance_uid == hit.subject.sop_instance_uid
        )
        return list(session.scalars(query.order_by(AuditRow.id)))
    rows = session.scalars(
        select(AuditRow)
        .where(AuditRow.study_instance_uid == hit.study.study_instance_uid)
        .order_by(AuditRow.id)
    )
    concerns = _concerns(session, hit)
    return [row for row in rows if concerns(row)]


def _concerns(session: Session, hit: Hit) -> Callable[[AuditRow], bool]:
    """Whether an event of the study is part of the story of a hit."""
    subject = hit.subject
    if subject.series_instance_uid is None:
        return lambda row: True
    jobs = {subject.job_id}
    if subject.job_id is None:
        of_series = select(JobRow.id).where(JobRow.series_instance_uid == subject.series_instance_uid)
        jobs = set(session.scalars(of_series))

    def concerns(row: AuditRow) -> bool:
        if row.job_id is not None:
            return row.job_id in jobs
        if row.series_instance_uid not in (None, subject.series_instance_uid):
            return False
        return subject.sop_instance_uid is None or row.sop_instance_uid in (None, subject.sop_instance_uid)

    return concerns


def _studies(session: Session, query: Select[StudyRow]) -> Iterator[StudyRow]:
    newest_first = query.order_by(StudyRow.last_received_at.desc(), StudyRow.study_instance_uid.desc())
    yield from session.scalars(newest_first.limit(MOST_HITS))


def _by_column(named: Named, column: InstrumentedAttribute[str]) -> Callable[[Session, str], Iterator[Hit]]:
    def finder(session: Session, identifier: str) -> Iterator[Hit]:
        for study in _studies(session, select(StudyRow).where(column == identifier)):
            yield Hit(named, study, Subject(study.study_instance_uid))

    return finder


def _series(session: Session, uid: str) -> Iterator[Hit]:
    for table in (InstanceRow, ResultRow):
        study_uid = session.scalar(
            select(table.study_instance_uid).where(table.series_instance_uid == uid).limit(1)
        )
        if study_uid is not None:
            yield Hit(Named.SERIES, session.get_one(StudyRow, study_uid), Subject(study_uid, uid))
            return


def _instance(session: Session, uid: str) -> Iterator[Hit]:
    row = session.scalar(select(InstanceRow).where(InstanceRow.sop_instance_uid == uid).limit(1))
    if row is not None:
        study = session.get_one(StudyRow, row.study_instance_uid)
        yield Hit(Named.INSTANCE, study, Subject(row.study_instance_uid, row.series_instance_uid, uid))
        return
    refused = select(AuditRow.id).where(
        AuditRow.study_instance_uid.is_(None), AuditRow.sop_instance_uid == uid
    )
    if session.scalar(refused.limit(1)) is not None:
        yield Hit(Named.INSTANCE, None, Subject(sop_instance_uid=uid))


def _result(session: Session, uid: str) -> Iterator[Hit]:
    row = session.get(ResultRow, uid)
    if row is not None:
        yield Hit(Named.RESULT, session.get_one(StudyRow, row.study_instance_uid), Subject.of_result(row))


def _job(session: Session, number: str) -> Iterator[Hit]:
    if not (number.isascii() and number.isdigit()) or int(number) > LARGEST_JOB_ID:
        return
    job = session.get(JobRow, int(number))
    if job is not None:
        yield Hit(Named.JOB, session.get_one(StudyRow, job.study_instance_uid), Subject.of_job(job))


FINDERS: dict[Named, Callable[[Session, str], Iterator[Hit]]] = {
    Named.STUDY: _by_column(Named.STUDY, StudyRow.study_instance_uid),
    Named.SERIES: _series,
    Named.RESULT: _result,
    Named.INSTANCE: _instance,
    Named.JOB: _job,
    Named.ACCESSION_NUMBER: _by_column(Named.ACCESSION_NUMBER, StudyRow.accession_number),
    Named.PATIENT_ID: _by_column(Named.PATIENT_ID, StudyRow.patient_id),
}


@dataclass(frozen=True)
class StudyFilter:
    """Which studies; None leaves a question open."""

    state: str | None = None
    calling_ae_title: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Last instance at or after `since`, and before `until`."""


@dataclass(frozen=True)
class StudyCursor:
    """Where a page of studies ended; the next one begins behind it."""

    last_received_at: datetime
    study_instance_uid: str

    @classmethod
    def behind(cls, study: StudyRow) -> StudyCursor:
        """The place behind `study`."""
        return cls(study.last_received_at, study.study_instance_uid)

    def __str__(self) -> str:
        return f"{self.last_received_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}_{self.study_instance_uid}"

    @classmethod
    def parse(cls, text: str) -> StudyCursor:
        """Read what `str` made. Raises PermanentError for anything else."""
        at, separator, uid = text.partition("_")
        try:
            if not separator:
                raise ValueError
            return cls(datetime.strptime(at, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC), uid)
        except ValueError as error:
            raise PermanentError("this is not a place in the list of studies; begin at its top") from error


def study_page(
    session: Session, wanted: StudyFilter, after: StudyCursor | None = None, limit: int = 50
) -> list[StudyRow]:
    """The studies behind `after`, those with the newest instance first."""
    key = (StudyRow.last_received_at, StudyRow.study_instance_uid)
    query = select(StudyRow).order_by(*(column.desc() for column in key)).limit(limit)
    if wanted.state:
        query = query.where(StudyRow.state == wanted.state)
    if wanted.calling_ae_title:
        query = query.where(StudyRow.calling_ae_title == wanted.calling_ae_title)
    if wanted.since:
        query = query.where(StudyRow.last_received_at >= wanted.since)
    if wanted.until:
        query = query.where(StudyRow.last_received_at < wanted.until)
    if after:
        query = query.where(tuple_(*key) < (after.last_received_at, after.study_instance_uid))
    return list(session.scalars(query))
