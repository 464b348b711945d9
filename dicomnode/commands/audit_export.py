"""The command that takes events, or everything about a study, out of the node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from dicomnode.commands.audit import safe
from dicomnode.commands.audit_filters import Kinds, Model, Moment, OutcomeName, Peer, Who, kinds_of
from dicomnode.commands.options import DEFAULT_CONFIG, ConfigOption, admin_audit, console, open_node
from dicomnode.errors import PermanentError
from dicomnode.export.everything import write_everything
from dicomnode.export.formats import Format, lines
from dicomnode.records.audit import Event, Subject
from dicomnode.records.events import EventFilter, events_in_order
from dicomnode.records.lookup import find_one
from dicomnode.records.tables import AuditRow


def audit_export(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; must not exist yet.")],
    config: ConfigOption = DEFAULT_CONFIG,
    form: Annotated[Format, typer.Option("--format", help="Of the events.")] = Format.CSV,
    event: Kinds = None,
    since: Moment = None,
    until: Moment = None,
    peer: Peer = None,
    who: Who = None,
    outcome: OutcomeName = None,
    model: Model = None,
    everything: Annotated[
        str | None, typer.Option(help="All about the study that this names, as a zip file.")
    ] = None,
    objects: Annotated[bool, typer.Option("--objects", help="With the DICOM objects themselves.")] = False,
) -> None:
    """Write events to a file, or everything about one study to a zip file. Oldest first."""
    wanted = EventFilter(kinds_of(event, outcome), since, until, peer, model, who)
    if everything is not None and wanted != EventFilter():
        raise typer.BadParameter("--everything takes all events of one study; leave out the other filters")
    _, database = open_node(config)
    try:
        with database.snapshot() as session:
            if everything is None:
                study, counts = None, {"events": _export_events(session, out, form, wanted)}
            else:
                study, counts = _export_study(session, out, everything, objects)
    except FileExistsError as error:
        raise PermanentError(f"{out} is there already; name a new file") from error
    except OSError as error:
        raise PermanentError(f"{out} cannot be written ({error.strerror})") from error
    with database.transaction() as session:
        admin_audit().record(
            session,
            Event.AUDIT_EXPORTED,
            Subject(study),
            format="everything" if study else form.value,
            objects=objects,
            event_count=counts["events"],
        )
    console.print(f"{safe(str(out))}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _export_study(session: Session, out: Path, identifier: str, objects: bool) -> tuple[str, dict[str, int]]:
    """Write everything about one study; returns its UID and how many of each thing were written."""
    hit = find_one(session, identifier)
    if hit.study is None:
        raise PermanentError("this was refused, so it belongs to no study; see: audit show")
    return hit.study.study_instance_uid, write_everything(session, hit, out, objects)


def _export_events(session: Session, out: Path, form: Format, wanted: EventFilter) -> int:
    """Write the events; returns how many."""
    count = 0

    def counted(rows: Iterable[AuditRow]) -> Iterator[AuditRow]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    with out.open("x", encoding="utf-8", newline="") as file:
        file.writelines(lines(counted(events_in_order(session, wanted)), form))
    return count
