"""`dicomtrain label-shares`: what a start is worth when labels are few."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from training.adjust import window_size, with_fitting
from training.commands.console import DataFolder, ExperimentFile, console, progress_bar
from training.config import read_experiment
from training.label_share_report import NAME, write_report
from training.label_shares import SCRATCH, Part, PartResult, Starts, plan, read_starts, run_parts


def label_shares(
    experiment_file: ExperimentFile,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the runs and the report; continued if there.")
    ],
    start: Annotated[
        list[str],
        typer.Option(
            help=f"`{SCRATCH}`, a bundle folder, or a run folder of fit or pretrain; may be given again. "
            "The first one is what the others are compared with."
        ),
    ],
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the labelled training groups; may be given again. Default: 0.1, 0.25 and 1."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="May be given again. Default: the experiment's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Instead of the experiment's, for each run.")
    ] = None,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Instead of the experiment's.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="ROWSxCOLS", help="Training window instead of the experiment's.")
    ] = None,
    data: DataFolder = None,
) -> None:
    """Fit a network at shares of the training labels from several starts, and measure it on the test split.

    Run it again with the same --out to continue; what is finished stays.
    """
    experiment = with_fitting(
        read_experiment(experiment_file, data),
        steps=steps,
        validate_every=validate_every,
        window_size=window_size(window) if window else None,
    )
    starts = read_starts(start, experiment)
    parts = plan(experiment, starts, share or (0.1, 0.25, 1.0), seed or (experiment.fitting.seed,))
    rows = write_report(_run_with_bars(parts, starts, out), out)
    table = Table("labels", "groups", "start", "Dice", "95 % interval", "gain", "p")
    for row in rows:
        low, high = row.interval or (None, None)
        values = (_figure(value) for value in (row.dice, low, high, row.gain, row.p))
        dice, lowest, highest, gain, p = values
        table.add_row(
            f"{row.share:.0%}", str(row.n_groups), row.start, dice, f"{lowest} to {highest}", gain, p
        )
    console.print(table)
    console.print(f"Report: {out / NAME}.md", soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _run_with_bars(parts: list[Part], starts: Starts, out: Path) -> list[PartResult]:
    results = []
    with progress_bar() as bar:
        overall = bar.add_task("runs", total=len(parts))
        current = bar.add_task("", total=None)

        def watch(part: Part, stage: str, done: int, total: int) -> None:
            bar.update(current, description=f"{part.name}: {stage}", completed=done, total=total)

        for result in run_parts(parts, starts, out, watch):
            bar.advance(overall)
            results.append(result)
            already = " (finished before)" if result.kept else ""
            console.print(f"{result.part.name}: test Dice {result.evaluation.mean_dice():.3f}{already}")
    return results
