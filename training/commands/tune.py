"""`dicomtrain tune`: search for better hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import optuna
import typer

from training.adjust import with_fitting
from training.commands.console import DataFolder, ExperimentFile, console, progress_bar
from training.config import read_experiment
from training.errors import RunError
from training.tune import Search, n_finished, open_study, run_trials
from training.tune_report import BEST_FILE, write_report


def tune(
    experiment_file: ExperimentFile,
    out: Annotated[Path, typer.Option("--out", help="Folder of the search; one found there is continued.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls counted.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each trial, instead of the experiment's.")
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of the experiment's; a trial can be pruned at a validation."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, metavar="MIN", help="Begin no trial after so many minutes.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="Also choose among these networks (`dicomtrain networks`); may be given again."),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help='Run the trials on this Ray cluster (or "auto").')
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="With --ray: so many trials at a time.")] = 2,
    gpus: Annotated[float, typer.Option(min=0.0, help="With --ray: GPUs of each trial.")] = 0.0,
    cpus: Annotated[float, typer.Option(min=0.1, help="With --ray: CPUs of each trial.")] = 1.0,
    data: DataFolder = None,
) -> None:
    """Search learning rate, weight decay, loss, augmentation, optimiser and network with Optuna.

    Judged by the Dice on the validation split; hopeless trials are pruned. Run it again with the same
    --out to continue. OUT/best.toml is the experiment with the best values.
    """
    experiment = read_experiment(experiment_file, data)
    shorter = with_fitting(experiment, steps=steps, validate_every=validate_every)
    search = Search(shorter, tuple(network or ()))
    study = open_study(search, out)
    try:
        run = _on_ray(ray, at_once, cpus, gpus) if ray else run_trials
        _run_with_bars(study, search, out, trials, timeout, run)
    finally:
        if any(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials):
            write_report(study, search, experiment, out)
    best = study.best_trial
    console.print(f"Best: trial {best.number}, validation Dice {best.value:.3f}")
    console.print(f"Next: dicomtrain fit {out / BEST_FILE} --out RUN_DIR", soft_wrap=True)


def _on_ray(address: str, at_once: int, cpus: float, gpus: float) -> Callable[..., None]:
    try:
        from training.tune_cluster import Cluster, run_trials_on_ray
    except ImportError as error:
        raise RunError(f"--ray needs Ray ({error}); install the extra `ray` of this package") from error
    return partial(run_trials_on_ray, cluster=Cluster(address, at_once, cpus, gpus))


def _run_with_bars(
    study: optuna.Study,
    search: Search,
    out: Path,
    n_trials: int,
    minutes: float | None,
    run: Callable[..., None],
) -> None:
    with progress_bar() as bar:
        overall = bar.add_task("trials", total=n_trials)
        current = bar.add_task("", total=search.experiment.fitting.steps)

        def watch(number: int, stage: str, step: int) -> None:
            bar.update(overall, completed=n_finished(study))
            bar.update(current, description=f"trial {number}: {stage}", completed=step)

        run(study, search, out, n_trials, watch, minutes=minutes)
