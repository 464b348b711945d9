"""What a search found: the best experiment, a table of the trials, and figures."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from optuna.trial import TrialState
from optuna.visualization import matplotlib as figures

from training.config import Experiment
from training.experiment_file import write_experiment
from training.tune import Search, best_experiment

BEST_FILE, TABLE = "best.toml", "trials.csv"
FEWEST = 2
"""Complete trials that an importance needs."""
FIGURES: dict[str, Callable[[optuna.Study], Axes]] = {
    "history": figures.plot_optimization_history,
    "importances": figures.plot_param_importances,
    "parallel_coordinates": figures.plot_parallel_coordinate,
}


def write_report(study: optuna.Study, search: Search, experiment: Experiment, folder: Path) -> None:
    """Write best.toml (`experiment` with the best values), trials.csv, and the figures that can be drawn.

    Raises RunError when no trial has run to its end.
    """
    _write_table(study, folder / TABLE)
    best = best_experiment(study, experiment, search.networks)
    note = (
        f"Found by `dicomtrain tune`: trial {study.best_trial.number} of {len(study.trials)}, validation "
        f"Dice {study.best_value:.4f} after {search.experiment.fitting.steps} steps."
    )
    write_experiment(best, folder / BEST_FILE, note)
    values = {trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    if len(values) >= FEWEST:
        _draw(study, folder)


def _write_table(study: optuna.Study, path: Path) -> None:
    trials = study.trials
    names = sorted({name for trial in trials for name in trial.params})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "val_dice", "last_step", "seconds", *names])
        for trial in trials:
            seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
            last = trial.last_step
            dice = trial.value if trial.value is not None else trial.intermediate_values.get(last or 0)
            parameters = [trial.params.get(name) for name in names]
            writer.writerow([trial.number, trial.state.name.lower(), dice, last, seconds, *parameters])


def _draw(study: optuna.Study, folder: Path) -> None:
    plt.switch_backend("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, draw in FIGURES.items():
            draw(study)
            plt.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            plt.close("all")
