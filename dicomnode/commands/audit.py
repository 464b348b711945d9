"""Commands about the audit trail. Whoever reads it is recorded in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dicomnode.commands.audit_filters import Kinds, Model, Moment, OutcomeName, Peer, Who, kinds_of
from dicomnode.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    LimitOption,
    admin_audit,
    console,
    local_time,
    open_node,
    print_json,
    table_of,
)
from dicomnode.errors import PermanentError
from dicomnode.records.anchoring import anchor_of_the_day
from dicomnode.records.anchors import private_key, public_key
from dicomnode.records.audit import Event, Subject
from dicomnode.records.chain import ChainCheck
from dicomnode.records.db import Database
from dicomnode.records.events import EventFilter, event_page
from dicomnode.records.lookup import Hit, Named, events_about, find, nothing_known
from dicomnode.records.queries import event_record
from dicomnode.records.story import sentence_of, tell
from dicomnode.records.tables import AuditRow
from dicomnode.records.timing import JobTiming, timings
from dicomnode.records.verifying import own_key, record_check, verify_trail
from dicomnode.show.plain import plain

audit = typer.Typer(no_args_is_help=True, help="Read and check the audit trail.")

EXIT_BROKEN = 1


@audit.command("show")
def audit_show(
    identifier: Annotated[
        str,
        typer.Argument(
            help="Accession number, patient ID, job number, or any UID of a study or of a part of it."
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    named: Annotated[
        Named | None, typer.Option("--as", help="What it is, where it could be several things.")
    ] = None,
    timing: Annotated[bool, typer.Option("--timing", help="How many seconds each step took.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell the whole story of one study, series, instance, job or result.

    When the identifier names several things, they are listed instead.
    """
    _, database = open_node(config)
    with database.snapshot() as session:
        hits = find(session, identifier, named)
        if not hits:
            raise nothing_known(identifier)
        rows = events_about(session, hits[0]) if len(hits) == 1 else []
    _note_reading(database, "show", {hit.subject.study_instance_uid for hit in hits})
    if as_json:
        print_json(
            {
                "hits": [_hit_record(hit) for hit in hits],
                "events": [event_record(row) for row in rows],
                "timing_s": {job.job_id: job.steps() for job in timings(rows)},
            }
        )
    elif len(hits) > 1:
        _print_hits(hits)
    elif timing:
        _print_timings(timings(rows))
    else:
        _print_story(hits[0], rows)


@audit.command("list")
def audit_list(
    config: ConfigOption = DEFAULT_CONFIG,
    event: Kinds = None,
    since: Moment = None,
    until: Moment = None,
    peer: Peer = None,
    who: Who = None,
    outcome: OutcomeName = None,
    model: Model = None,
    before: Annotated[int | None, typer.Option(help="Only what is older than this event.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest events, newest last."""
    _, database = open_node(config)
    wanted = EventFilter(kinds_of(event, outcome), since, until, peer, model, who)
    with database.snapshot() as session:
        rows = event_page(session, wanted, before, limit)[::-1]
    _note_reading(database, "list", {row.study_instance_uid for row in rows})
    if as_json:
        print_json([event_record(row) for row in rows])
        return
    table = table_of("Event", "Time", "Who", "Study", "What")
    for row in rows:
        table.add_row(
            str(row.id), local_time(row.at), safe(row.actor), row.study_instance_uid or "", _sentence(row)
        )
    console.print(table)
    if len(rows) == limit:
        console.print(f"older ones: --before {rows[0].id}")


@audit.command("verify")
def audit_verify(
    config: ConfigOption = DEFAULT_CONFIG,
    anchors: Annotated[
        Path | None,
        typer.Option(help="Anchors to compare with, such as a copy from elsewhere."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--public-key", help="Public key (PEM) of the anchors; else that of audit.signing_key."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that no event was changed, removed, cut off or rewritten. Exit code 1 when one was.

    Recomputes every seal, and compares the trail with the anchors that were written once a day.
    """
    if anchors is not None and not anchors.is_file():
        raise PermanentError(f"there are no anchors at {anchors}; name the file that was copied")
    settings, database = open_node(config)
    of_anchors = public_key(key) if key else own_key(settings.audit.signing_key)
    with console.status("") as status:
        check = verify_trail(
            database,
            anchors or settings.anchors,
            of_anchors,
            lambda count: status.update(f"{count} events"),
        )
    record_check(database, admin_audit(), check)
    if as_json:
        print_json(_check_record(check))
    else:
        _print_check(check)
    if check.faults:
        raise typer.Exit(EXIT_BROKEN)


@audit.command("anchor")
def audit_anchor(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Write the anchor of today, if it is not there yet. The running node does so by itself."""
    settings, database = open_node(config)
    signing_key = settings.audit.signing_key
    anchor = anchor_of_the_day(
        database, admin_audit(), settings.anchors, private_key(signing_key) if signing_key else None
    )
    if anchor is None:
        console.print("nothing to do: today's anchor is written, or the trail is empty")
    else:
        console.print(f"anchor of {anchor.day}: {anchor.event_count} events, in {settings.anchors}")


def _note_reading(database: Database, command: str, studies: set[str | None]) -> None:
    """Record who read the trail. What was typed may be a patient's; only UIDs are kept."""
    named = sorted(uid for uid in studies if uid)
    with database.transaction() as session:
        admin_audit().record(
            session,
            Event.AUDIT_READ,
            Subject(named[0] if len(named) == 1 else None),
            command=command,
            study_count=len(named),
        )


def _hit_record(hit: Hit) -> dict[str, Any]:
    study = hit.study
    return {
        "named": hit.named.value,
        **vars(hit.subject),
        "state": study.state if study else None,
        "last_received_at": study.last_received_at if study else None,
    }


def _check_record(check: ChainCheck) -> dict[str, Any]:
    return {**vars(check), "good": not check.faults, "faults": [vars(fault) for fault in check.faults]}


def _print_check(check: ChainCheck) -> None:
    for fault in check.faults:
        console.print(f"[red]{fault.damage}[/]: {safe(fault.told)}")
    last = f"; the last is of {local_time(check.last_at)}" if check.last_at else ""
    state = f"{len(check.faults)} fault(s) found" if check.faults else "unbroken"
    console.print(f"{check.event_count} events, {state}; held against {check.anchor_count} anchor(s){last}")


def _print_hits(hits: list[Hit]) -> None:
    table = table_of("What", "Study", "State", "Last instance", "Job", title="This names several things")
    for hit in hits:
        study = hit.study
        table.add_row(
            hit.named.value.replace("_", " "),
            hit.subject.study_instance_uid or "",
            study.state if study else "",
            local_time(study.last_received_at) if study else "",
            str(hit.subject.job_id or ""),
        )
    console.print(table)
    console.print("show one of them by its UID, or say with --as what it is")


def _print_story(hit: Hit, rows: list[AuditRow]) -> None:
    study = hit.subject.study_instance_uid
    table = table_of("Time", "Who", "Job", "What", title=f"Study {study}" if study else "Not of any study")
    for line in tell(rows):
        times = f" ({line.count} times)" if line.count > 1 else ""
        table.add_row(
            local_time(line.at), safe(line.actor), str(line.job_id or ""), safe(line.sentence) + times
        )
    console.print(table)


def _print_timings(jobs: list[JobTiming]) -> None:
    if not jobs:
        console.print("no job was made yet")
    for job in jobs:
        table = table_of("Step", "Seconds", title=f"Job {job.job_id}")
        for step, seconds in job.steps().items():
            table.add_row(step, f"{seconds:.3f}")
        console.print(table)


def _sentence(row: AuditRow) -> str:
    return safe(sentence_of(row))


def safe(text: str) -> str:
    """Foreign words as they are, whatever they would do to a terminal."""
    return escape(plain(text))
