"""Commands of the administrator: what is going on, what happened, and trying again."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import select

from dicomnode.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    console,
    open_node,
    print_json,
)
from dicomnode.deliver.delivery import replay_delivery
from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit, Event, verify_chain
from dicomnode.records.queries import job_record, latest_events, overview, study_events
from dicomnode.records.queries import jobs as newest_jobs
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.story import SENTENCES, tell
from dicomnode.records.tables import AuditRow, DeliveryRow, JobRow, StudyRow
from dicomnode.route.dispatch import replay_study
from dicomnode.work.jobs import replay_job

audit = typer.Typer(no_args_is_help=True, help="Read the audit trail.")

LimitOption = Annotated[int, typer.Option(min=1, help="How many at most.")]


def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Count studies, jobs and deliveries by state."""
    _, database = open_node(config)
    with database.snapshot() as session:
        counts = overview(session)
    if as_json:
        print_json(counts)
        return
    for name, states in counts.items():
        console.print(f"{name}: " + (", ".join(f"{n} {state}" for state, n in states.items()) or "none"))


def jobs(
    config: ConfigOption = DEFAULT_CONFIG,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest jobs with their state, attempts, error and deliveries."""
    _, database = open_node(config)
    with database.snapshot() as session:
        found = newest_jobs(session, state.value if state else None, limit)
    if as_json:
        print_json([job_record(job, deliveries) for job, deliveries in found])
        return
    table = Table("Job", "State", "Model", "Created (UTC)", "Attempt", "Deliveries", "Error")
    for job, deliveries in found:
        table.add_row(
            str(job.id),
            job.state,
            job.model,
            f"{job.created_at:%Y-%m-%d %H:%M:%S}",
            str(job.attempt),
            ", ".join(f"{count} {name}" for name, count in deliveries.items()),
            escape(job.error or ""),
        )
    console.print(table)


def replay(
    config: ConfigOption = DEFAULT_CONFIG,
    job: Annotated[int | None, typer.Option(help="Run this failed job again.")] = None,
    study: Annotated[str | None, typer.Option(help="Everything failed or given up of this study.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every delivery that was given up.")] = False,
) -> None:
    """Try again what failed: jobs that failed, and deliveries that were given up.

    Say what: --job, --study or --dead. Results keep their UIDs, so nothing appears twice.
    """
    if not (job or study or dead):
        raise PermanentError("say what to replay: --job NUMBER, --study UID or --dead")
    _, database = open_node(config)
    actor = Audit(f"admin {getpass.getuser()}")
    failed = select(JobRow).where(JobRow.state == JobState.FAILED.value)
    buried = select(DeliveryRow).where(DeliveryRow.state == DeliveryState.DEAD.value)
    if job:
        failed, buried = failed.where(JobRow.id == job), buried.where(DeliveryRow.job_id == job)
    if study:
        failed = failed.where(JobRow.study_instance_uid == study)
        of_study = select(JobRow.id).where(JobRow.study_instance_uid == study)
        buried = buried.where(DeliveryRow.job_id.in_(of_study))
    parked = select(StudyRow).where(
        StudyRow.state == StudyState.PARKED.value, StudyRow.study_instance_uid == study
    )
    with database.transaction() as session:
        studies_again = list(session.scalars(parked))
        jobs_again = list(session.scalars(failed)) if job or study else []
        deliveries_again = list(session.scalars(buried))
        for parked_study in studies_again:
            replay_study(session, actor, parked_study)
        for row in jobs_again:
            replay_job(session, actor, row)
        for delivery in deliveries_again:
            replay_delivery(session, actor, delivery)
    counts = {"study": len(studies_again), "job": len(jobs_again), "delivery": len(deliveries_again)}
    if not any(counts.values()):
        raise PermanentError("nothing to replay: no parked study, failed job or dead delivery among these")
    console.print("queued again: " + ", ".join(f"{count} x {name}" for name, count in counts.items()))


@audit.command("show")
def audit_show(
    study_uid: Annotated[str, typer.Argument(help="Study Instance UID.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Tell the whole story of one study."""
    _, database = open_node(config)
    with database.snapshot() as session:
        rows = study_events(session, study_uid)
    if as_json:
        print_json([_event_record(row) for row in rows])
        return
    table = Table("Time (UTC)", "Who", "Job", "What", title=f"Study {study_uid}")
    for line in tell(rows):
        times = f" ({line.count} times)" if line.count > 1 else ""
        table.add_row(
            f"{line.at:%H:%M:%S.%f}"[:-3], line.actor, str(line.job_id or ""), escape(line.sentence) + times
        )
    console.print(f"{rows[0].at:%Y-%m-%d}")
    console.print(table)


@audit.command("list")
def audit_list(
    config: ConfigOption = DEFAULT_CONFIG,
    event: Annotated[str | None, typer.Option(help="Only this kind, e.g. job_failed.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest events, newest last."""
    if event is not None and event not in set(SENTENCES):
        raise PermanentError(f"no event is called {event!r}; known: {', '.join(SENTENCES)}")
    _, database = open_node(config)
    with database.snapshot() as session:
        rows = latest_events(session, event, limit)
    if as_json:
        print_json([_event_record(row) for row in rows])
        return
    table = Table("Time (UTC)", "Who", "Study", "What")
    for row in rows:
        sentence = escape(SENTENCES[Event(row.event)](row.detail))
        table.add_row(f"{row.at:%Y-%m-%d %H:%M:%S}", row.actor, row.study_instance_uid or "", sentence)
    console.print(table)


@audit.command("verify")
def audit_verify(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check that no event was changed or removed from within the trail. Exit code 1 when one was."""
    _, database = open_node(config)
    with database.snapshot() as session:
        check = verify_chain(session)
    if check.broken_at is not None:
        raise PermanentError(
            f"the audit trail is broken at event {check.broken_at}, after {check.event_count} good events: "
            "that event was changed, or one before it removed; compare with a backup"
        )
    console.print(f"{check.event_count} events, unbroken; the last is of {check.last_at}")


def _event_record(row: AuditRow) -> dict[str, object]:
    return {column.name: getattr(row, column.name) for column in AuditRow.__table__.columns}
