"""`dicomtrain export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from training import run as runs
from training.commands.console import DataFolder, console
from training.commands.tables import evaluation_table, scan_sentence
from training.config import read_experiment
from training.export import Wishes
from training.export import export as export_bundle


def export(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR... BUNDLE_DIR", help="Run folders of `fit`, then the bundle."),
    ],
    experiment_file: Annotated[
        Path | None,
        typer.Option("--experiment", help="Take labels, limits and texts from this file, not from the run."),
    ] = None,
    data: DataFolder = None,
    scan: Annotated[
        list[Path] | None,
        typer.Option("--scan", help="Also measure this NAME_image.nrrd; NAME_label.nrrd is its truth."),
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option(
            "--other", help="Also measure on the test cases of this experiment file (generalisation)."
        ),
    ] = None,
    most_false: Annotated[
        float | None,
        typer.Option(help="At most so many false findings per validation case when limits are chosen."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option(help="Choose temperature and thresholds on the validation cases, or keep the file's."),
    ] = True,
) -> None:
    """Calibrate the best weights, measure them on the test split and write the model bundle.

    Several run folders become an ensemble, whose answer is the mean of their probabilities.
    """
    if len(folders) < 2:
        raise typer.BadParameter("give at least one run folder, and the bundle folder last")
    *sources, bundle = folders
    if experiment_file is None:
        experiment = runs.experiment_of(sources[0], data)
    else:
        experiment = read_experiment(experiment_file, data)
    torch.set_num_threads(max(2, experiment.fitting.threads))
    others = {path.stem: read_experiment(path) for path in other or []}
    wishes = Wishes(scan or [], others, most_false, calibrated)
    done = export_bundle(experiment, sources, bundle, wishes, console.print)
    console.print(evaluation_table(done.measured.test))
    for name, found in done.measured.others.items():
        console.print(evaluation_table(found, name))
    for result in done.measured.scans:
        console.print(scan_sentence(result), soft_wrap=True)
    console.print(f"{bundle} holds {done.bundle.card.name} {done.bundle.card.version}", soft_wrap=True)
