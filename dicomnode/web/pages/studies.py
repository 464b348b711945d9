"""The list of studies: search by whatever somebody has in hand, or page through the newest."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Event, Subject
from dicomnode.records.lookup import Hit, StudyCursor, StudyFilter, find, study_page
from dicomnode.records.states import StudyState
from dicomnode.records.tables import StudyRow
from dicomnode.web.access import page
from dicomnode.web.days import day, day_after
from dicomnode.web.facts import progress_of
from dicomnode.web.site import Right, Visit

PAGE_LENGTH = 50


def show_studies(visit: Visit) -> Response:
    """The studies that an identifier names, or one page of all."""
    identifier = visit.query("find")
    if identifier:
        return _found(visit, identifier)
    problem, cursor = "", None
    try:
        wanted = _wanted(visit)
        cursor = StudyCursor.parse(visit.query("after")) if visit.query("after") else None
    except PermanentError as error:
        problem, wanted = str(error), StudyFilter()
    with visit.site.database.snapshot() as session:
        studies = study_page(session, wanted, cursor, PAGE_LENGTH + 1)
    shown, more = studies[:PAGE_LENGTH], len(studies) > PAGE_LENGTH
    next_page = _address(visit, after=str(StudyCursor.behind(shown[-1]))) if more else ""
    return _list(visit, shown, problem=problem, next_page=next_page)


def _found(visit: Visit, identifier: str) -> Response:
    with visit.site.database.snapshot() as session:
        hits = find(session, identifier)
    studies = {hit.study.study_instance_uid: hit.study for hit in hits if hit.study is not None}
    if len(studies) == 1:
        return RedirectResponse(f"/studies/{next(iter(studies))}", status_code=303)
    return _list(visit, list(studies.values()), problem=_about(hits, len(studies)))


def _about(hits: list[Hit], study_count: int) -> str:
    if not hits:
        return "Nothing is known under this number, patient ID or UID."
    if not study_count:
        return "This instance was refused before it belonged to a study; the audit says why."
    return ""


def _list(visit: Visit, studies: list[StudyRow], problem: str, next_page: str = "") -> Response:
    uids = [study.study_instance_uid for study in studies]
    if uids:
        visit.record(Event.PATIENT_DATA_VIEWED, Subject(), page="studies", studies=uids)
    with visit.site.database.snapshot() as session:
        progress = progress_of(session, studies)
    return visit.page(
        "studies.html",
        studies=studies,
        progress=progress,
        problem=problem,
        next_page=next_page,
        first_page=bool(visit.query("after")) and _address(visit),
        states=[state.value for state in StudyState],
        asked={name: visit.query(name) for name in ("find", "state", "sender", "since", "until")},
    )


def _wanted(visit: Visit) -> StudyFilter:
    """The filters of the form; an empty field asks nothing. Raises PermanentError for a wrong date."""
    state = visit.query("state")
    return StudyFilter(
        state=state if state in set(StudyState) else None,
        calling_ae_title=visit.query("sender") or None,
        since=day(visit.query("since")),
        until=day_after(visit.query("until")),
    )


def _address(visit: Visit, **changed: Any) -> str:
    """This list with other parameters."""
    asked = {name: visit.query(name) for name in ("state", "sender", "since", "until")} | changed
    return f"/studies?{urlencode({name: value for name, value in asked.items() if value})}"


ROUTES = (page("/studies", show_studies, Right.SEE),)
