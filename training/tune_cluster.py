"""The trials of a search, several at once, as tasks of a Ray cluster.

The search stays Optuna's, in the journal of its folder, which every machine of the cluster must see, as
well as the data. This process draws each trial and closes it; a task trains it and reports to the journal.
A trial whose machine dies is drawn again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray.exceptions import RayError, RayTaskError

from training.errors import RunError
from training.tune import Search, Watch, join_study, n_finished, run_trial, sampler_of, values_of

LOOK_S = 1.0
MOST_LOST = 5
"""So many trials in a row whose machine died are no accident."""


@dataclass(frozen=True)
class Cluster:
    """Where the trials run: the head of a Ray cluster, and what each trial asks it for."""

    address: str
    at_once: int
    cpus: float = 1.0
    gpus: float = 0.0


def run_trials_on_ray(
    study: optuna.Study,
    search: Search,
    folder: Path,
    n_trials: int,
    watch: Watch,
    cluster: Cluster,
    minutes: float | None = None,
) -> None:
    """Search until `n_trials` are finished, those of earlier calls counted; no new one after `minutes`.

    Raises RunError when the cluster cannot be reached or keeps losing the trials, and what a trial raises.
    """
    _join(cluster)
    study.sampler = sampler_of(search, len(study.trials), cluster.at_once)
    train = ray.remote(_train).options(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0)
    end = time.monotonic() + 60.0 * minutes if minutes is not None else float("inf")
    running: dict[Any, optuna.Trial] = {}
    lost = 0
    while True:
        missing = n_trials - n_finished(study) - len(running)
        while missing > 0 and len(running) < cluster.at_once and time.monotonic() < end:
            trial = study.ask()
            running[train.remote(search, folder.resolve(), trial.number, cluster.at_once)] = trial
            watch(trial.number, "given to the cluster", 0)
            missing -= 1
        if not running:
            return
        done, _ = ray.wait(list(running), timeout=LOOK_S)
        for task in done:
            lost = 0 if _close(study, task, running.pop(task)) else lost + 1
            if lost == MOST_LOST:
                raise RunError(
                    f"{lost} trials in a row were lost with their machine; look at the cluster's log"
                )
        _show(study, running.values(), watch)


def _join(cluster: Cluster) -> None:
    try:
        ray.init(cluster.address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RunError(
            f"no Ray cluster at {cluster.address!r} ({error}); start one, or correct --ray"
        ) from error


def _train(search: Search, folder: Path, number: int, at_once: int) -> float | None:
    """Run one trial that was drawn elsewhere; its validation Dice, or None when it was pruned."""
    study = join_study(search, folder)
    study.sampler = sampler_of(search, number, at_once)
    known = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    try:
        return run_trial(optuna.Trial(study, known._trial_id), search, folder, lambda *_: None)
    except optuna.TrialPruned:
        return None


def _close(study: optuna.Study, task: Any, trial: optuna.Trial) -> bool:
    """Write down how a trial ended. False when it was lost and waits to be drawn again."""
    try:
        dice = ray.get(task)
    except RayTaskError as error:
        study.tell(trial, state=TrialState.FAIL)
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except RayError:
        study.tell(trial, state=TrialState.FAIL)
        study.enqueue_trial(values_of(study.trials[trial.number]))
        return False
    if dice is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, dice)
    return True


def _show(study: optuna.Study, running: Any, watch: Watch) -> None:
    by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    for trial in running:
        reported = by_number[trial.number].intermediate_values
        if reported:
            step = max(reported)
            watch(trial.number, f"validation Dice {reported[step]:.3f}", step)
