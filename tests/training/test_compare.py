"""The comparison on tiny images: the plan, what is run, what is kept, and what a failure leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from inference.bundle import Postprocessing
from inference.engine import Model
from tests.training.comparisons import PLAN, write_comparison
from training import compare as runner
from training.calibrate import Calibrated, calibrate
from training.cases import LoadedCase
from training.commands.compare import compare
from training.commands.networks import networks
from training.comparison import Comparison, Job, chosen, read_comparison
from training.errors import ExperimentError, RunError
from training.networks import CATALOGUE
from training.results import Evaluation
from training.run import read_record

FEW = PLAN.replace('["unet", "fcn", "handcrafted"]', '["fcn"]').replace('["paper", "best"]', '["best"]')


class Interrupted(BaseException):
    """As Ctrl-C: no error of a network."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def quiet(job: Job, stage: str, done: int, total: int) -> None:
    """Report nothing."""


def run(comparison: Comparison, out: Path) -> list[runner.Outcome]:
    return list(runner.run_jobs(comparison.jobs, out, quiet))


def changed_times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}


@pytest.fixture
def few(tmp_path: Path) -> Comparison:
    return read_comparison(write_comparison(tmp_path, FEW))


@pytest.mark.slow
def test_every_combination_is_run_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    comparison = read_comparison(write_comparison(tmp_path))
    first = run(comparison, tmp_path / "out")
    assert [outcome.state for outcome in first] == ["done"] * 6
    assert {outcome.job.name for outcome in first} == {
        f"square/{protocol}/{network}"
        for protocol in ("paper", "best")
        for network in ("unet", "fcn", "handcrafted")
    }
    before = changed_times(tmp_path / "out")
    second = run(comparison, tmp_path / "out")
    assert [outcome.state for outcome in second] == ["kept"] * 6
    assert [outcome.mean_dice for outcome in second] == [outcome.mean_dice for outcome in first]
    assert changed_times(tmp_path / "out") == before


def test_every_network_gets_the_same_budget_seed_and_split(tmp_path: Path) -> None:
    plan = PLAN.replace("steps = 4", "steps = 4\nseed = 77")
    jobs = read_comparison(write_comparison(tmp_path, plan)).jobs
    assert {(j.experiment.fitting.steps, j.experiment.fitting.seed) for j in jobs} == {(4, 77)}
    assert {j.experiment.fitting.precision for j in jobs} == {"float32"}
    assert {j.experiment.fitting.batch_size for j in jobs if j.protocol == "paper"} == {16}
    assert {j.experiment.fitting.batch_size for j in jobs if j.protocol == "best"} == {2}
    assert len({json.dumps(j.experiment.data.model_dump(mode="json")) for j in jobs}) == 1


def test_a_stored_result_holds_the_evaluation_what_was_found_and_the_cost(
    few: Comparison, tmp_path: Path
) -> None:
    (outcome,) = run(few, tmp_path / "out")
    folder = runner.folder_of(tmp_path / "out", outcome.job)
    stored = json.loads((folder / runner.TEST).read_text())
    evaluation = Evaluation.from_plain(stored["evaluation"])
    assert len(evaluation.cases) == 8
    assert evaluation.mean_dice() == outcome.mean_dice
    for number, case in enumerate(evaluation.cases):
        found = runner.read_found(folder, number)
        assert found.shape == (1, 32, 32)
        for label in case.labels:
            assert (found == label.label).sum() == label.agreement.volume_found
    assert stored["cost"]["parameters"] > 1000
    assert stored["cost"]["multiply_adds"] > 1000
    assert stored["cost"]["steps"] == 4
    assert stored["cost"]["best_step"] in (2, 4)
    assert stored["environment"]["libraries"]["torch"] == torch.__version__


def test_an_interrupted_network_is_continued_to_the_same_result(few: Comparison, tmp_path: Path) -> None:
    def stop(job: Job, stage: str, done: int, total: int) -> None:
        if stage.startswith("loss") and done == 3:
            raise Interrupted

    (whole,) = run(few, tmp_path / "whole")
    with pytest.raises(Interrupted):
        list(runner.run_jobs(few.jobs, tmp_path / "torn", stop))
    folder = runner.folder_of(tmp_path / "torn", few.jobs[0])
    assert read_record(folder)["step"] == 2
    assert not (folder / runner.TEST).exists()
    (torn,) = run(few, tmp_path / "torn")
    assert (torn.state, torn.mean_dice) == ("done", whole.mean_dice)


def test_other_data_are_measured_again(few: Comparison, tmp_path: Path) -> None:
    run(few, tmp_path / "out")
    (tmp_path / "squares/test_0.png").write_bytes((tmp_path / "squares/test_1.png").read_bytes())
    (outcome,) = run(few, tmp_path / "out")
    assert outcome.state == "failed"
    assert "data_digest" in outcome.message


@pytest.mark.slow
def test_a_network_that_breaks_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(CATALOGUE["unet"], build=lambda *_: {"_target_": "monai.networks.nets.UNet"})
    monkeypatch.setitem(CATALOGUE, "unet", broken)
    plan = PLAN.replace('["paper", "best"]', '["best"]')
    result = call(str(write_comparison(tmp_path, plan)), "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, RunError)
    assert "square/best/unet" in str(result.exception)
    assert "square/best/fcn: test Dice" in result.output
    message = json.loads((tmp_path / "out/runs/square/best/unet/failed.json").read_text())["message"]
    for name in ("README.md", "index.html"):
        report = (tmp_path / "out/report" / name).read_text()
        assert "square/best/unet" in report
        assert message.split(":")[0] in report
        assert "FCN-8s" in report

    monkeypatch.undo()
    result = call(str(tmp_path / "compare.toml"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert not (tmp_path / "out/runs/square/best/unet/failed.json").exists()
    assert "square/best/fcn: test Dice" in result.output


def test_parts_can_be_run_apart_and_reported_together(tmp_path: Path) -> None:
    plan, out = str(write_comparison(tmp_path)), tmp_path / "out"
    assert call(plan, "--out", str(out), "--only", "square/best/handcrafted").exit_code == 0
    assert not (out / "report").exists()
    assert [path.parent.name for path in out.rglob("test.json")] == ["handcrafted"]
    assert call(plan, "--out", str(out), "--report-only").exit_code == 0
    assert "square/best/unet" in (out / "report/README.md").read_text().split("Not yet run")[1]


def test_only_that_matches_nothing_names_the_choices(few: Comparison) -> None:
    with pytest.raises(ExperimentError, match="square/best/fcn"):
        chosen(few.jobs, ["*/best/unet"])
    assert chosen(few.jobs, ["*/*/fcn"]) == list(few.jobs)


def test_every_error_of_the_plan_is_named_at_once(tmp_path: Path) -> None:
    plan = """
tasks = ["square.toml", "other/square.toml"]
networks = ["unet", "vnet", "fnc"]
protocols = ["worst"]
budgets = 3

[budget]
steps = 0
"""
    with pytest.raises(ExperimentError) as caught:
        read_comparison(write_comparison(tmp_path, plan))
    message = str(caught.value)
    for part in ("square may come only once", "vnet, fnc", "handcrafted", "protocols.0", "budgets",
                 "budget.steps", "budget.validate_every"):  # fmt: skip
        assert part in message


def test_errors_of_every_experiment_are_named_at_once(tmp_path: Path) -> None:
    plan = PLAN.replace('precision = "float32"', "speed = 3, steepness = 4")
    with pytest.raises(ExperimentError) as caught:
        read_comparison(write_comparison(tmp_path, plan))
    assert "fitting.speed" in str(caught.value)
    assert str(caught.value).count("fitting.steepness") == 1  # not once per network


def test_a_window_that_does_not_suit_a_network_is_refused_before_anything_runs(tmp_path: Path) -> None:
    plan = PLAN.replace('precision = "float32"', "window_size = [20, 20]")
    with pytest.raises(ExperimentError, match=r"'unet'.*multiples of 16"):
        read_comparison(write_comparison(tmp_path, plan))


def test_overrides_of_a_task_that_is_not_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="name circle, but the tasks are square"):
        read_comparison(write_comparison(tmp_path, PLAN + '\n[data]\ncircle = "circles"\n'))


def test_the_networks_are_listed_with_their_sizes() -> None:
    listed = json.loads(call_networks("--json"))
    by_name = {entry["name"]: entry for entry in listed}
    assert set(by_name) == set(CATALOGUE)
    assert by_name["handcrafted"]["traditional"]
    assert by_name["handcrafted"]["parameters"] is None
    assert all(entry["parameters"] > 1e6 for name, entry in by_name.items() if name != "handcrafted")
    assert "handcrafted" in call_networks()


def call(*arguments: str) -> typer.testing.Result:
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, list(arguments))


def call_networks(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(networks)
    return CliRunner().invoke(app, list(arguments)).output


def test_the_limits_of_the_shipped_network_judge_no_other(tmp_path: Path) -> None:
    path = write_comparison(tmp_path)
    file = tmp_path / "square.toml"
    shipped = (
        "probability_threshold = 0.7\npeak_probability = 0.9\ntemperature = 3.0\nsmallest_lesion_share = 0.01"
    )
    file.write_text(file.read_text().replace("probability_threshold = 0.5", shipped), encoding="utf-8")
    for job in read_comparison(path).jobs:
        how = job.experiment.postprocessing
        assert (how.probability_threshold, how.peak_probability, how.temperature) == (0.5, 0.0, 1.0)
        assert how.smallest_lesion_share == 0.01, "a clinical choice, and not of the network"


def test_best_chooses_its_limits_on_the_validation_cases(
    few: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the choice is a threshold that every probability passes, everything is found."""
    splits: set[str] = set()

    def any_probability(model: Model, cases: Sequence[LoadedCase]) -> Calibrated:
        splits.update(loaded.case.split for loaded in cases)
        return replace(calibrate(model, cases), postprocessing=Postprocessing(probability_threshold=1e-4))

    monkeypatch.setattr(runner, "calibrate", any_probability)
    (outcome,) = run(few, tmp_path / "out")
    assert outcome.state == "done", outcome.message
    assert splits == {"val"}
    assert runner.read_found(runner.folder_of(tmp_path / "out", outcome.job), 0).all()


def test_paper_keeps_the_published_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Calibrated:
        raise AssertionError("paper chooses no limits")

    monkeypatch.setattr(runner, "calibrate", never)
    plan = write_comparison(tmp_path, FEW.replace('["best"]', '["paper"]'))
    assert [outcome.state for outcome in run(read_comparison(plan), tmp_path / "out")] == ["done"]
