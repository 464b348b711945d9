"""`dicomtrain trust`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from training.cases import Split, of_split
from training.commands.console import BundleFolder, DataFolder, ExperimentFile, console, progress_bar
from training.commands.evaluate import load_model
from training.config import read_experiment
from training.errors import ExperimentError
from training.train import used_cases
from training.trust.report import README, Asked, some_of, write_report
from training.trust.summary import MEASURES, Trust
from training.trust.uncertainty import IN_PLANE, Axis


def trust(
    bundle: BundleFolder,
    experiment_file: ExperimentFile,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report; its files are replaced.")],
    data: DataFolder = None,
    split: Annotated[Split, typer.Option(help="Which split.")] = "test",
    explain: Annotated[int, typer.Option(min=0, help="Cases to explain, from the best to the worst.")] = 3,
    cases: Annotated[int | None, typer.Option(min=1, help="Only so many cases, drawn by a seed.")] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(
            help="Axis to mirror along; may be given again. Default: those of the experiment's "
            "augmentation, or row and column where it has none."
        ),
    ] = None,
) -> None:
    """Report how far a model can be trusted: calibration, uncertainty, and where the network looks.

    OUT/README.md shows it, OUT/trust.json holds all numbers. Use a split that neither training nor
    calibration saw.
    """
    experiment = read_experiment(experiment_file, data)
    model = load_model(bundle, None, None)
    data_set, known = used_cases(experiment)
    of_this = of_split(known, split)
    axes = axes_of(mirror or ()) or experiment.augmentation.mirror or IN_PLANE
    asked = Asked(some_of(of_this, cases), split, len(of_this), axes, explain)
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=None)

        def tick(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        found = write_report(model, data_set, asked, out, tick)
    console.print(f"{sentence(found)} Report: {out / README}", soft_wrap=True, highlight=False)


def axes_of(names: Sequence[str]) -> tuple[Axis, ...]:
    """Each axis once, in the order of an array; raises ExperimentError for a name that is none."""
    known: tuple[Axis, ...] = get_args(Axis)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ExperimentError(f"--mirror {unknown[0]} is no axis: give {', '.join(known)}")
    return tuple(axis for axis in known if axis in names)


def sentence(found: Trust) -> str:
    """The most important numbers in one line."""
    parts = []
    if found.before is not None and found.after is not None:
        parts.append(f"ECE {found.before.ece:.3f} before and {found.after.ece:.3f} after calibration.")
    first = found.foretold[next(iter(MEASURES))]
    if first.auroc is not None:
        parts.append(f"AUROC for failing cases {first.auroc:.2f} ({first.n_failed} of {first.n} fail).")
    if found.cover.n:
        parts.append(f"True volume within 2 SD in {found.cover.n_covered} of {found.cover.n} cases.")
    return " ".join(parts)
