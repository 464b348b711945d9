"""One study: where it stands, every step, why each series went where it went, and what came out."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session
from starlette.responses import Response

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Event, Subject
from dicomnode.records.story import tell
from dicomnode.records.tables import StudyRow
from dicomnode.replay import Replayed, replay_of_job, replay_of_study
from dicomnode.show.stored_report import StoredMeasurements
from dicomnode.web.access import page
from dicomnode.web.facts import JobFacts, read_facts, without_views
from dicomnode.web.site import Right, Visit
from dicomnode.web.steps import runs_of


@dataclass(frozen=True)
class Outcome:
    """What one job found, for the page."""

    job: JobFacts
    measurements: StoredMeasurements | None
    problem: str = ""


def show_study(visit: Visit) -> Response:
    """The page of one study. That it was looked at is recorded first."""
    uid = visit.part("uid")
    with visit.site.database.snapshot() as session:
        study = session.get(StudyRow, uid)
    if study is None:
        return visit.not_found("No study of this UID is known.")
    visit.record(Event.PATIENT_DATA_VIEWED, Subject(uid), page="study")
    visit.site.seen.add(visit.visitor.session, uid)
    with visit.site.database.snapshot() as session:
        facts = read_facts(session, session.get_one(StudyRow, uid))
        made = sorted((job for job in facts.jobs if job.results), key=lambda job: job.job.shadow)
        outcomes = [_outcome(visit, session, job) for job in made]
    events = facts.events if visit.visitor.may(Right.READ_AUDIT) else without_views(facts.events)
    lines = tell(events)
    return visit.page(
        "study.html",
        facts=facts,
        study=facts.study,
        outcomes=outcomes,
        runs=[(run, list(run.bars())) for run in runs_of(facts.events)][::-1],
        story=lines,
        story_start=lines[0].at if lines else None,
    )


def _outcome(visit: Visit, session: Session, job: JobFacts) -> Outcome:
    try:
        measurements = visit.site.gallery.measurements(session, job.job.id)
    except PermanentError as error:
        return Outcome(job, None, str(error))
    return Outcome(job, measurements)


def replay_study(visit: Visit) -> Response:
    """Everything of the study that waits for somebody."""
    uid = visit.part("uid")
    with visit.site.database.transaction() as session:
        done = replay_of_study(session, visit.audit, uid)
    return _replayed(visit, f"/studies/{uid}", done)


def replay_job(visit: Visit) -> Response:
    """One failed job."""
    with visit.site.database.transaction() as session:
        done = replay_of_job(session, visit.audit, visit.number("number"))
    return _replayed(visit, f"/studies/{visit.part('uid')}", done)


def _replayed(visit: Visit, path: str, done: Replayed) -> Response:
    return visit.back_to(path, "replayed" if done else "nothing")


ROUTES = (
    page("/studies/{uid}", show_study, Right.SEE),
    page("/studies/{uid}/replay", replay_study, Right.ACT, ("POST",)),
    page("/studies/{uid}/jobs/{number:int}/replay", replay_job, Right.ACT, ("POST",)),
)
