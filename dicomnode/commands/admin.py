"""Commands of the administrator: what is going on, what happened, and trying again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import select

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
)
from dicomnode.deliver.delivery import replay_delivery
from dicomnode.errors import PermanentError
from dicomnode.records.queries import job_record, overview
from dicomnode.records.queries import jobs as newest_jobs
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.tables import DeliveryRow, JobRow, StudyRow
from dicomnode.route.dispatch import replay_study
from dicomnode.work.jobs import replay_job


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
    table = Table("Job", "State", "Model", "Created", "Attempt", "Deliveries", "Error")
    for job, deliveries in found:
        table.add_row(
            str(job.id),
            job.state,
            job.model,
            local_time(job.created_at),
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
    actor = admin_audit()
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
