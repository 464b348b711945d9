"""`dicomtrain pretrain`: weights to begin with, learnt from images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.adjust import with_fitting
from training.commands.console import DataFolder, ExperimentFile, console, progress_bar
from training.config import read_experiment
from training.distortion import Distortion
from training.pretrain import Repairing
from training.pretrain import pretrain as pretrain_network


def pretrain(
    experiment_file: ExperimentFile,
    out: Annotated[Path, typer.Option("--out", help="Run folder; a run found there is continued.")],
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Folder of further images without masks; may be given again."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the experiment's.")] = None,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Instead of the experiment's.")] = None,
    hidden: Annotated[
        float | None, typer.Option(min=0.0, max=0.9, help="Share that is painted over.")
    ] = None,
    data: DataFolder = None,
) -> None:
    """Pretrain a network without labels: it repairs damaged images of the training split.

    Run it again with the same --out to continue. `fit --init OUT` begins with the weights.
    """
    experiment = with_fitting(
        read_experiment(experiment_file, data), steps=steps, validate_every=validate_every
    )
    with progress_bar() as bar:
        task = bar.add_task("reading images", total=experiment.fitting.steps)

        def report(progress: Repairing) -> None:
            bar.update(task, completed=progress.step, description=f"error {progress.loss:.3f}")
            if progress.val_loss is not None:
                console.print(f"step {progress.step}: validation error {progress.val_loss:.4f}")

        how = Distortion() if hidden is None else Distortion(hidden=hidden)
        pretrain_network(experiment, out, report, how, images or ())
    console.print(f"Done. Next: dicomtrain fit {experiment_file} --init {out} --out RUN_DIR", soft_wrap=True)
