"""The audit trail: search, check, export. Whoever reads it is recorded in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from dicomnode.errors import PermanentError
from dicomnode.export.formats import Format, lines
from dicomnode.records.audit import Event, Subject
from dicomnode.records.events import OUTCOMES, EventFilter, event_page, outcome_of
from dicomnode.records.story import sentence_of
from dicomnode.records.tables import AuditRow
from dicomnode.web.access import page
from dicomnode.web.days import day, day_after
from dicomnode.web.site import Right, Visit

PAGE_LENGTH = 100
EXPORT_BATCH = 2000
FILTERS = ("event", "outcome", "peer", "who", "model", "since", "until")
DOWNLOADS = {
    Format.CSV: ("text/csv; charset=utf-8", "csv"),
    Format.JSONL: ("application/jsonl", "jsonl"),
    Format.XML: ("application/xml", "xml"),
    Format.FHIR: ("application/fhir+ndjson", "fhir.ndjson"),
}
"""Media type and end of the name of each export."""


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
    studies = sorted({row.study_instance_uid for row in shown if row.study_instance_uid})
    visit.record(
        Event.AUDIT_READ,
        Subject(studies[0] if len(studies) == 1 else None),
        command="list",
        study_count=len(studies),
        filters=_asked(visit),
    )
    return visit.page(
        "audit.html",
        rows=[(row, sentence_of(row), outcome_of(row.event)) for row in shown],
        problem=problem,
        older=_address(visit, before=str(shown[-1].id)) if len(rows) > PAGE_LENGTH else "",
        newest=_address(visit) if visit.query("before") else "",
        exports={form: _address(visit, path=f"/audit/export.{form}") for form in Format},
        kinds=[event.value for event in Event],
        outcomes=list(OUTCOMES),
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
    """All events that fit, oldest last, as a file. Recorded before the first of them leaves."""
    kind = visit.part("kind")
    if kind not in set(Format):
        return visit.not_found(f"Events are exported as {', '.join(Format)}.")
    try:
        wanted = _wanted(visit)
    except PermanentError as error:
        return visit.page("message.html", 400, title="Not exported", message=str(error))
    form = Format(kind)
    visit.record(Event.AUDIT_EXPORTED, format=form.value, objects=False, filters=_asked(visit))
    media_type, suffix = DOWNLOADS[form]
    name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{suffix}"
    return StreamingResponse(
        lines(_all_rows(visit, wanted), form),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


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


def _asked(visit: Visit) -> list[str]:
    """The filters that are set; what was typed into them may be a patient's."""
    return [name for name in FILTERS if visit.query(name)]


def _wanted(visit: Visit) -> EventFilter:
    """What the form asks. Raises PermanentError for a wrong day."""
    found = EventFilter(
        since=day(visit.query("since")),
        until=day_after(visit.query("until")),
        peer=visit.query("peer") or None,
        model=visit.query("model") or None,
        who=visit.query("who") or None,
    )
    kinds = OUTCOMES.get(visit.query("outcome"), frozenset())
    if visit.query("event") in set(Event):
        kinds = (kinds or frozenset(Event)) & {Event(visit.query("event"))}
        if not kinds:
            raise PermanentError("No event of this kind has this outcome.")
    return replace(found, events=kinds)


def _address(visit: Visit, path: str = "/audit", **changed: str) -> str:
    asked = {name: visit.query(name) for name in FILTERS} | changed
    return f"{path}?{urlencode({name: value for name, value in asked.items() if value})}"


ROUTES = (
    page("/audit", show_audit, Right.READ_AUDIT),
    page("/audit/verify", verify, Right.READ_AUDIT, ("POST",)),
    page("/audit/verification", show_verification, Right.READ_AUDIT),
    page("/audit/export.{kind}", export, Right.READ_AUDIT),
)
