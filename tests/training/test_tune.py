"""A search over a handful of tiny trainings. Whether it finds good values is Optuna's matter."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.training.discs import write_discs
from training import tune
from training.adjust import with_fitting
from training.config import Experiment, read_experiment, with_network
from training.errors import ExperimentError, RunError
from training.experiment_file import write_experiment
from training.run import plain
from training.search_space import own_parameters, propose
from training.train import Progress
from training.tune import Search, n_finished, open_study, run_trials
from training.tune_report import write_report


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return write_discs(tmp_path)


def quiet(*_: Any) -> None:
    """Watch nothing."""


def fake_run(dice: float) -> Any:
    """A training that reaches `dice` at every validation, in place of one that takes time."""

    def fit(experiment: Experiment, folder: Path, report: Any) -> None:
        folder.mkdir(parents=True)
        how = experiment.fitting
        for step in range(how.validate_every, how.steps + 1, how.validate_every):
            report(Progress(step, 1.0, dice, dice))
        (folder / "run.json").write_text(f'{{"best": {dice}}}', encoding="utf-8")

    return fit


def test_a_search_continues_with_the_trials_it_had_and_writes_the_winner(
    experiment: Experiment, tmp_path: Path
) -> None:
    search, out = Search(experiment), tmp_path / "out"
    study = open_study(search, out)
    run_trials(study, search, out, 2, quiet)
    first = [(trial.params, trial.value) for trial in study.trials]
    assert first[0][0]["learning_rate"] == pytest.approx(experiment.fitting.learning_rate)
    assert first[0][0]["optimiser"] == experiment.fitting.optimiser

    study = open_study(search, out)
    run_trials(study, search, out, 3, quiet)
    assert [(trial.params, trial.value) for trial in study.trials[:2]] == first
    assert len(study.trials) == 3
    assert study.trials[2].params != study.trials[1].params
    run_trials(open_study(search, out), search, out, 3, quiet)
    assert len(study.trials) == 3

    full = with_fitting(experiment, steps=400, validate_every=50)
    write_report(study, search, full, out)
    best = read_experiment(out / "best.toml")
    assert best.fitting.steps == 400
    assert best.fitting.learning_rate == pytest.approx(study.best_params["learning_rate"], rel=1e-3)
    assert best.fitting.optimiser == study.best_params["optimiser"]
    assert best.data.folder.resolve() == experiment.data.folder.resolve()
    with (out / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_dice"]) for row in rows] == [trial.value for trial in study.trials]
    assert not list(out.rglob("*.pt"))


def test_figures_are_drawn_where_there_is_something_to_compare(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, out = Search(experiment, ("fcn", "segresnet")), tmp_path / "out"
    study = open_study(search, out)
    monkeypatch.setattr(tune, "fit", fake_run(0.4))
    run_trials(study, search, out, 1, quiet)
    write_report(study, search, experiment, out)
    assert not list(out.glob("*.png"))
    for number in range(2, 5):
        monkeypatch.setattr(tune, "fit", fake_run(0.4 + number / 10))
        run_trials(study, search, out, number, quiet)
    write_report(study, search, experiment, out)
    assert {path.stem for path in out.glob("*.png")} == {"history", "importances", "parallel_coordinates"}
    won = with_network(experiment, study.best_params["network"]).network
    assert read_experiment(out / "best.toml").network == won


def test_a_hopeless_trial_is_pruned(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(with_fitting(experiment, steps=10, validate_every=2), unpruned=2)
    out = tmp_path / "out"
    study = open_study(search, out)
    for number, dice in enumerate((0.7, 0.8, 0.01), start=1):
        monkeypatch.setattr(tune, "fit", fake_run(dice))
        run_trials(study, search, out, number, quiet)
    assert [trial.state for trial in study.trials] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.PRUNED,
    ]
    assert study.trials[2].last_step == 4
    assert study.best_trial.number == 1


def test_a_killed_trial_is_tried_again(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, out = Search(experiment), tmp_path / "out"
    killed = open_study(search, out).ask()
    propose(killed, experiment, ())
    parameters = dict(killed.params)

    monkeypatch.setattr(tune, "fit", fake_run(0.5))
    study = open_study(search, out)
    run_trials(study, search, out, 1, quiet)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].params == parameters
    assert n_finished(study) == 1


def test_a_trial_that_was_killed_before_it_drew_anything_begins_with_the_same_values(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, out = Search(experiment), tmp_path / "out"
    for _ in range(2):
        open_study(search, out).ask()
    monkeypatch.setattr(tune, "fit", fake_run(0.5))
    study = open_study(search, out)
    run_trials(study, search, out, 1, quiet)
    assert study.trials[-1].params == own_parameters(experiment, ())


def test_a_folder_of_another_search_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    open_study(Search(experiment), tmp_path / "out")
    with pytest.raises(RunError, match="another experiment"):
        open_study(Search(with_fitting(experiment, steps=9)), tmp_path / "out")
    with pytest.raises(RunError, match="other networks"):
        open_study(Search(experiment, ("fcn",)), tmp_path / "out")


def test_what_cannot_be_searched_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no network 'resnet'"):
        Search(experiment, ("resnet",))
    with pytest.raises(ExperimentError, match="'paper'"):
        Search(read_experiment(tmp_path / "disc.toml", protocol="paper"))
    study = open_study(Search(experiment), tmp_path / "out")
    with pytest.raises(RunError, match="no trial"):
        write_report(study, Search(experiment), experiment, tmp_path / "out")


def test_the_files_own_values_are_proposed_unchanged(experiment: Experiment) -> None:
    trial = optuna.trial.FixedTrial(own_parameters(experiment, ()))
    assert plain(propose(trial, experiment, ())) == plain(experiment)


@pytest.mark.parametrize("name", ["mr_brain_tumour", "us_breast_lesion", "mr_hippocampus", "ct_lung_nodule"])
def test_a_written_experiment_reads_back_the_same(name: str, tmp_path: Path) -> None:
    experiment = read_experiment(Path(__file__).parents[2] / f"config/training/{name}.toml")
    write_experiment(experiment, tmp_path / "copy.toml", "A note\nin two lines")
    copy = read_experiment(tmp_path / "copy.toml")
    assert copy.data.folder.resolve() == experiment.data.folder.resolve()
    assert plain(copy) == plain(experiment)
    assert copy.data.attribution == experiment.data.attribution
    assert (tmp_path / "copy.toml").read_text(encoding="utf-8").startswith("# A note\n# in two lines\n")
