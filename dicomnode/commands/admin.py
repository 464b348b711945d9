"""Commands of the administrator: what is going on, what happened, and trying again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy.orm import Session

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
from dicomnode.commands.run import usable_models
from dicomnode.deliver.breaker import probe_now
from dicomnode.errors import PermanentError
from dicomnode.observe.syslog import lags
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.lookup import find_one
from dicomnode.records.queries import held_studies, job_record, overview, troubled_destinations, uncommitted
from dicomnode.records.queries import jobs as newest_jobs
from dicomnode.records.states import JobState
from dicomnode.records.tables import ResultRow
from dicomnode.replay import dead_of_unknown, replay_dead, replay_of_job, replay_of_results, replay_of_study
from dicomnode.spool import Spool


def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Count studies, jobs, deliveries and destinations by state, and say what is in trouble or behind."""
    from dicomnode.receive.recorder import Recorder

    settings, database = open_node(config)
    with database.snapshot() as session:
        held = held_studies(session)
        counts, troubled, stored = overview(session), troubled_destinations(session), uncommitted(session)
        receivers = lags(session, settings.audit.syslog)
    unrecorded = Recorder(Spool(settings.spool), database, Audit("admin")).unrecorded()
    if as_json:
        syslog = {lag.target: {"events": lag.events, "oldest_s": lag.oldest_s} for lag in receivers}
        print_json(
            {
                **counts,
                "held_studies": held,
                "troubled_destinations": troubled,
                "uncommitted": stored,
                "syslog_lag": syslog,
                "acknowledged_unrecorded": unrecorded,
            }
        )
        return
    if unrecorded:
        console.print(f"acknowledged and not recorded yet: {unrecorded} instance(s)")
    for name, states in counts.items():
        console.print(f"{name}: " + (", ".join(f"{n} {state}" for state, n in states.items()) or "none"))
    for reason, count in held.items():
        console.print(f"[red]{count} complete[/] not routed yet: {escape(reason)}")
    for row in troubled:
        next_try = local_time(row["next_try_at"]) if row["next_try_at"] else "at once"
        console.print(f"[red]{escape(row['told'])}[/]; next try {next_try}")
    for row in stored:
        asked = f"asked {local_time(row['asked_at'])}" if row["asked_at"] else "not asked yet"
        console.print(
            f"{row['count']} result(s) stored at {escape(row['destination'])} wait for it to commit to them: "
            f"{asked}, asks again {local_time(row['asks_again_at'])}"
        )
    for lag in receivers:
        last = f"last sent {local_time(lag.sent_at)}" if lag.sent_at else "nothing sent yet"
        behind = f"{lag.events} event(s), {lag.oldest_s:.0f} s behind" if lag.events else "has everything"
        console.print(f"syslog {escape(lag.target)}: {behind}; {last}")


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
    table = table_of("Job", "State", "Model", "Created", "Attempt", "Deliveries", "Error")
    for job, deliveries in found:
        table.add_row(
            str(job.id),
            job.state,
            f"{job.model} (shadow)" if job.shadow else job.model,
            local_time(job.created_at),
            str(job.attempt),
            ", ".join(f"{count} {name}" for name, count in deliveries.items()),
            escape(job.error or ""),
        )
    console.print(table)


def replay(
    config: ConfigOption = DEFAULT_CONFIG,
    job: Annotated[int | None, typer.Option(help="Run this failed job again.")] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="IDENTIFIER",
            help="Everything failed or given up of the study that this names: accession number, UID, ...",
        ),
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every delivery that was given up.")] = False,
    destination: Annotated[
        str | None, typer.Option(help="Try this destination now, whatever its pause.")
    ] = None,
    check: Annotated[
        int | None, typer.Option(help="Run this past job again and compare bit for bit; sends nothing.")
    ] = None,
    mend: Annotated[
        int | None, typer.Option(help="Run this past job again and put back what is damaged or lost of it.")
    ] = None,
) -> None:
    """Try again what failed: jobs that failed, deliveries that were given up, a destination that was lost.

    Say what: --job, --study, --dead or --destination. Results keep their UIDs, so nothing appears twice.
    --check does something else: it runs a job that succeeded again and compares; exit code 1 when it differs.
    --mend does so, too, and writes files that are damaged or lost again, where they come out the same.
    """
    if check is not None:
        _compare(config, check)
        return
    if mend is not None:
        _mend(config, mend)
        return
    if not (job or study or dead or destination):
        raise PermanentError(
            "say what to replay: --job NUMBER, --study IDENTIFIER, --dead or --destination NAME"
        )
    settings, database = open_node(config)
    actor = admin_audit()
    with database.transaction() as session:
        done = [
            *([replay_of_job(session, actor, job)] if job else []),
            *([replay_of_study(session, actor, _study_uid(session, study))] if study else []),
            *([replay_dead(session, actor, settings.peers)] if dead else []),
            *(["a destination"] if destination and probe_now(session, actor, destination) else []),
        ]
        unknown = dead_of_unknown(session, settings.peers) if dead else []
    for name, count in unknown:
        console.print(f"left as they are: {count} result(s) for {name}, which is no configured peer")
    if not any(done):
        raise PermanentError(
            "nothing to replay: no parked study, failed job, dead delivery or pausing destination among these"
        )
    console.print(f"queued again: {'; '.join(str(replayed) for replayed in done if replayed)}")


def _study_uid(session: Session, identifier: str) -> str:
    """The study that somebody named by whatever they had. Raises PermanentError when it names no study."""
    study = find_one(session, identifier).study
    if study is None:
        raise PermanentError(f"{identifier!r} was refused, so there is nothing to replay; see: audit show")
    return study.study_instance_uid


def _compare(config: Path, job_id: int) -> None:
    """Run a past job again, say how it compares, and record who asked."""
    from dicomnode.work.check_again import run_again

    settings, database = open_node(config)
    second = run_again(database, usable_models(settings), job_id, settings.compiled)
    other = sorted({compared.kind for compared in second.objects if not compared.same})
    with database.transaction() as session:
        admin_audit().record(
            session, Event.JOB_CHECKED, Subject.of_job(second.job), same=second.same, other=other
        )
    table = table_of("Object", "SOP Instance UID", "Then", "Now", title=f"Job {job_id}, run again")
    for compared in second.objects:
        now = "the same" if compared.same else (compared.sha256_now or "not made")[:12]
        table.add_row(compared.kind, compared.sop_instance_uid, compared.sha256_then[:12], now)
    console.print(table)
    for difference in second.differences:
        console.print(escape(difference))
    if not second.same:
        raise typer.Exit(1)


def _mend(config: Path, job_id: int) -> None:
    """Run a past job again, put back what is damaged or lost of it, and queue what was given up for that."""
    from dicomnode.work.check_again import mend, run_again

    settings, database = open_node(config)
    second = run_again(database, usable_models(settings), job_id, settings.compiled)
    mended = mend(Spool(settings.spool), second)
    actor = admin_audit()
    with database.transaction() as session:
        for uid in mended:
            result = session.get_one(ResultRow, uid)
            subject = Subject.of_result(result)
            actor.record(session, Event.RESULT_MENDED, subject, kind=result.kind, sha256=result.sha256)
        queued = replay_of_results(session, actor, mended)
    if not mended:
        console.print(f"nothing to mend: all files of job {job_id} are as they were made")
        return
    console.print(
        f"put back: {len(mended)} object(s) of job {job_id}" + (f"; queued again: {queued}" if queued else "")
    )
