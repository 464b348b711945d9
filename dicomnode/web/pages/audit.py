"""The audit trail: search, check, export. Whoever reads it is recorded in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Event, Subject
from dicomnode.records.events import EventFilter, Outcome, event_page, events_with, outcome_of
from dicomnode.records.story import SENTENCES
from dicomnode.records.tables import AuditRow
from dicomnode.show.exported import as_csv, as_json_lines
from dicomnode.web.access import page
from dicomnode.web.site import Right, Visit

PAGE_LENGTH = 100
EXPORT_BATCH = 2000
FILTERS = ("event", "outcome", "peer", "model", "since", "until")
FAILURE = "failure"


def show_audit(visit: Visit) -> Response:
    """The newest events that fit, and the way to older ones."""
    try:
        wanted, before = _wanted(visit), visit.query("before")
        with visit.site.database.snapshot() as session:
            edge = int(before[:18]) if before.isascii() and before.isdigit() else None
            rows = event_page(session, wanted, edge, PAGE_LENGTH + 1)
        problem = ""
    except PermanentError as error:
        rows, problem = [], str(error)
    shown = rows[:PAGE_LENGTH]
    _record_reading(visit, "list", shown)
    return visit.page(
        "audit.html",
        rows=[(row, SENTENCES[Event(row.event)](row.detail), outcome_of(Event(row.event))) for row in shown],
        problem=problem,
        older=_address(visit, before=str(shown[-1].id)) if len(rows) > PAGE_LENGTH else "",
        newest=_address(visit) if visit.query("before") else "",
        exports={kind: _address(visit, path=f"/audit/export.{kind}") for kind in EXPORTS},
        kinds=[event.value for event in Event],
        outcomes=[FAILURE, *(outcome.name.lower() for outcome in Outcome)],
        asked={name: visit.query(name) for name in FILTERS},
        verification=visit.site.verification.status,
    )


def verify(visit: Visit) -> Response:
    """Begin to check the whole trail."""
    started = visit.site.verification.start(visit.site.settings, visit.site.database, visit.audit)
    return visit.back_to("/audit/verification", "verifying" if started else "verifying_already")


def show_verification(visit: Visit) -> Response:
    """How far the check is, or what it found."""
    return visit.page("verification.html", verification=visit.site.verification.status)


def export(visit: Visit) -> Response:
    """All events that fit, oldest last, as a file."""
    kind = visit.part("kind")
    if kind not in EXPORTS:
        return visit.not_found("Events are exported as csv or jsonl.")
    media_type, write = EXPORTS[kind]
    try:
        wanted = _wanted(visit)
    except PermanentError as error:
        return visit.page("message.html", 400, title="Not exported", message=str(error))
    _record_reading(visit, "export", [])
    name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{kind}"
    return StreamingResponse(
        write(_all_rows(visit, wanted)),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


EXPORTS = {"csv": ("text/csv; charset=utf-8", as_csv), "jsonl": ("application/jsonl", as_json_lines)}


def _all_rows(visit: Visit, wanted: EventFilter) -> Iterator[AuditRow]:
    """Batch by batch, so that no reader keeps a snapshot open for minutes."""
    before: int | None = None
    while True:
        with visit.site.database.snapshot() as session:
            rows = event_page(session, wanted, before, EXPORT_BATCH)
        yield from rows
        if len(rows) < EXPORT_BATCH:
            return
        before = rows[-1].id


def _record_reading(visit: Visit, command: str, rows: list[AuditRow]) -> None:
    studies = sorted({row.study_instance_uid for row in rows if row.study_instance_uid})
    visit.record(
        Event.AUDIT_READ,
        Subject(studies[0] if len(studies) == 1 else None),
        command=command,
        study_count=len(studies),
        filters=[name for name in FILTERS if visit.query(name)],
    )


def _wanted(visit: Visit) -> EventFilter:
    """What the form asks. Raises PermanentError for a wrong day."""
    until = _day(visit.query("until"))
    found = EventFilter(
        since=_day(visit.query("since")),
        until=until + timedelta(days=1) if until else None,
        peer=visit.query("peer") or None,
        model=visit.query("model") or None,
    )
    kinds = _of_outcome(visit.query("outcome"))
    if visit.query("event") in set(Event):
        kinds = (kinds or frozenset(Event)) & {Event(visit.query("event"))}
        if not kinds:
            raise PermanentError("No event of this kind has this outcome.")
    return replace(found, events=kinds)


def _of_outcome(name: str) -> frozenset[Event]:
    """The kinds of events with an outcome; empty, which asks nothing, for an unknown one."""
    if name == FAILURE:
        return frozenset(Event) - events_with(Outcome.SUCCESS)
    return next((events_with(o) for o in Outcome if o.name.lower() == name), frozenset())


def _day(words: str) -> datetime | None:
    if not words:
        return None
    try:
        return datetime.strptime(words, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise PermanentError("A day is written as 2026-11-27.") from error


def _address(visit: Visit, path: str = "/audit", **changed: str) -> str:
    asked = {name: visit.query(name) for name in FILTERS} | changed
    return f"{path}?{urlencode({name: value for name, value in asked.items() if value})}"


ROUTES = (
    page("/audit", show_audit, Right.READ_AUDIT),
    page("/audit/verify", verify, Right.READ_AUDIT, ("POST",)),
    page("/audit/verification", show_verification, Right.READ_AUDIT),
    page("/audit/export.{kind}", export, Right.READ_AUDIT),
)
