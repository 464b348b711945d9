"""`dicomtrain compare`: every network on every task, under one budget, and the report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.commands.console import complaints, console, progress_bar
from training.compare import Outcome, run_jobs
from training.comparison import Job, chosen, read_comparison
from training.errors import RunError
from training.report.write import REPORT, write_report

PlanFile = Annotated[Path, typer.Argument(metavar="COMPARE.toml", help="Tasks, networks, protocols, budget.")]


def compare(
    plan_file: PlanFile,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the runs and the report; continued if there.")
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only TASK/PROTOCOL/NETWORK, * stands for anything; may be given again. So several "
            "processes can share the work. No report is written."
        ),
    ] = None,
    report_only: Annotated[bool, typer.Option(help="Run nothing, report on what is finished.")] = False,
) -> None:
    """Compare networks: fit each one on each task in each protocol, measure them on the test split.

    Run it again with the same --out to continue after an interruption; what is finished stays.
    The report is written to OUT/report: open index.html or README.md.
    """
    comparison = read_comparison(plan_file)
    failed = [] if report_only else run_with_bars(chosen(comparison.jobs, only or ()), out)
    if only and not report_only:
        console.print("No report yet: run the command with --report-only when every part is finished.")
    else:
        write_report(comparison, out, f"dicomtrain compare {plan_file} --out {out}")
        console.print(f"The report is in {out / REPORT}: open index.html", soft_wrap=True)
    if failed:
        names = ", ".join(outcome.job.name for outcome in failed)
        raise RunError(f"{len(failed)} of the networks failed, see failed.json in their folders: {names}")


def run_with_bars(jobs: list[Job], out: Path) -> list[Outcome]:
    """Run the jobs, one line each; returns those that failed."""
    failed = []
    with progress_bar() as bar:
        overall = bar.add_task("networks", total=len(jobs))
        current = bar.add_task("", total=None)

        def watch(job: Job, stage: str, done: int, total: int) -> None:
            bar.update(current, description=f"{job.name}: {stage}", completed=done, total=total)

        for outcome in run_jobs(jobs, out, watch):
            bar.advance(overall)
            if outcome.state == "failed":
                failed.append(outcome)
                complaints.print(
                    f"[bold red]failed:[/] {outcome.job.name}: {outcome.message}", highlight=False
                )
            else:
                already = " (finished before)" if outcome.state == "kept" else ""
                console.print(f"{outcome.job.name}: test Dice {outcome.mean_dice:.3f}{already}")
    return failed
