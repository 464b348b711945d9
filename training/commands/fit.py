"""`dicomtrain fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import train
from training.commands.console import DataFolder, ExperimentFile, console, progress_bar
from training.config import read_experiment
from training.parallel import started_by_torchrun
from training.protocols import Protocol
from training.start import read_start


def fit(
    experiment_file: ExperimentFile,
    out: Annotated[Path, typer.Option("--out", help="Run folder; a run found there is continued.")],
    data: DataFolder = None,
    protocol: Annotated[Protocol | None, typer.Option(help="Instead of the experiment's.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the weights of this bundle, run folder or pretraining (transfer learning)."
        ),
    ] = None,
) -> None:
    """Train a network. Run it again with the same --out to continue after an interruption.

    Several GPUs: torchrun --nproc-per-node N -m training fit EXPERIMENT.toml --out RUN_DIR
    """
    experiment = read_experiment(experiment_file, data, protocol)
    start = None if init is None else read_start(init)
    with started_by_torchrun() as processes, progress_bar() as bar:
        task = bar.add_task("reading cases", total=experiment.fitting.steps, visible=processes.first)

        def report(progress: train.Progress) -> None:
            text = f"loss {progress.loss:.3f}"
            if progress.val_dice is not None and processes.first:
                console.print(f"step {progress.step}: {text}, validation Dice {progress.val_dice:.3f}")
            bar.update(task, completed=progress.step, description=text)

        train.fit(experiment, out, report, start, processes)
    if processes.first:
        console.print(f"Done. Next: dicomtrain export {out} BUNDLE_DIR", soft_wrap=True)
