"""Hyperparameter search with Optuna, judged by the validation Dice. The test split plays no part.

study.journal   every trial; a search is continued from it (one call at a time)
trials/NNN/     the run folder of each trial, without its weights
best.toml       the experiment with the best values; trials.csv and the figures: `training/tune_report.py`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from training.config import Experiment, with_network
from training.errors import ExperimentError, RunError
from training.run import BEST, LAST, plain, read_record
from training.search_space import own_parameters, propose
from training.train import Progress, fit

JOURNAL, TRIALS = "study.journal", "trials"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
UNPRUNED = 5
"""So many trials run to their end before the others are measured against them."""
ASKED = "asked"

Watch = Callable[[int, str, int], None]
"""Called with the number of the trial, how it goes, and the steps done."""


@dataclass(frozen=True)
class Search:
    """What is searched: `experiment` as each trial runs it, but for the values that a trial changes.

    Raises ExperimentError where the protocol allows no change, or a network is unknown or does not
    suit the window.
    """

    experiment: Experiment
    networks: tuple[str, ...] = ()
    """Names of the catalogue; none keeps the experiment's network."""
    unpruned: int = UNPRUNED

    def __post_init__(self) -> None:
        if self.experiment.protocol == "paper":
            raise ExperimentError(
                "protocol 'paper' fixes what a search changes: take 'best', or a file without a protocol"
            )
        if len(set(self.networks)) != len(self.networks):
            raise ExperimentError(f"a network is named twice: {', '.join(self.networks)}")
        for name in self.networks:
            with_network(self.experiment, name)

    @property
    def asked(self) -> dict[str, Any]:
        """What two calls must agree on to be one search."""
        return {"experiment": plain(self.experiment), "networks": list(self.networks)}


def open_study(search: Search, folder: Path) -> optuna.Study:
    """The search in `folder`, new or with the trials it had.

    A new one begins with the values of the file. A trial that was killed is tried again. Raises
    RunError when the folder belongs to another search.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = join_study(search, folder)
    # a continued search must not draw once more what it has drawn already
    study.sampler = sampler_of(search, len(study.trials))
    if not study.user_attrs:
        study.set_user_attr(ASKED, search.asked)
        study.enqueue_trial(own_parameters(search.experiment, search.networks))
    elif study.user_attrs[ASKED] != search.asked:
        raise RunError(
            f"{folder} holds a search over another experiment or other networks: choose another --out"
        )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(values_of(trial))
    return study


def values_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has drawn, and what it was to begin with, though it had not come so far."""
    enqueued: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return enqueued | trial.params


def sampler_of(search: Search, drawn: int, at_once: int = 1) -> TPESampler:
    """What draws values after `drawn` trials, when `at_once` of them run together."""
    return TPESampler(seed=search.experiment.fitting.seed % 2**31 + drawn, constant_liar=at_once > 1)


def join_study(search: Search, folder: Path) -> optuna.Study:
    """The search in `folder` as it is, for whoever runs trials of it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    study = optuna.create_study(storage=storage, study_name="tune", direction="maximize", load_if_exists=True)
    first = search.experiment.fitting.validate_every  # too early a validation to judge by
    study.pruner = MedianPruner(search.unpruned, n_warmup_steps=first + 1)
    return study


def run_trials(
    study: optuna.Study,
    search: Search,
    folder: Path,
    n_trials: int,
    watch: Watch,
    minutes: float | None = None,
) -> None:
    """Search until `n_trials` are finished, those of earlier calls counted; no new one after `minutes`."""
    missing = n_trials - n_finished(study)
    if missing > 0:
        study.optimize(
            lambda trial: run_trial(trial, search, folder, watch),
            n_trials=missing,
            timeout=None if minutes is None else 60.0 * minutes,
        )


def n_finished(study: optuna.Study) -> int:
    """Trials that ran to their end or were pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def best_experiment(study: optuna.Study, experiment: Experiment, networks: Sequence[str]) -> Experiment:
    """`experiment` with the values of the best trial.

    Raises RunError when no trial has run to its end.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise RunError("no trial of the search has run to its end: run it again with more --trials")
    return propose(optuna.trial.FixedTrial(study.best_params), experiment, networks)


def run_trial(trial: optuna.Trial, search: Search, folder: Path, watch: Watch) -> float:
    """The validation Dice of the weights that are kept; raises TrialPruned when it is hopeless."""
    experiment = propose(trial, search.experiment, search.networks)
    run = folder / TRIALS / f"{trial.number:03d}"
    watch(trial.number, "reading cases", 0)

    def report(progress: Progress) -> None:
        watch(trial.number, f"loss {progress.loss:.3f}", progress.step)
        if progress.val_dice is None:
            return
        trial.report(progress.val_dice, progress.step)
        if progress.step < experiment.fitting.steps and trial.should_prune():
            raise optuna.TrialPruned

    try:
        fit(experiment, run, report)
        return kept_dice(read_record(run), experiment)
    finally:
        for name in (LAST, BEST):  # the best values are trained anew, for longer
            (run / name).unlink(missing_ok=True)


def kept_dice(record: dict[str, Any], experiment: Experiment) -> float:
    """Validation Dice of the weights that a run kept."""
    if experiment.fitting.keep == "dice":
        return float(record["best"])
    return float(min(record["history"], key=lambda entry: entry["val_loss"])["val_dice"])
