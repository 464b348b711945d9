"""The run folder: optimisers, schedules, checkpoints that are whole, and weights taken over."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from training import run as runs
from training.config import Experiment
from training.errors import RunError
from training.run import (
    BEST,
    LAST,
    RUN,
    Start,
    best_state,
    experiment_of,
    learning_rate,
    new_run,
    open_run,
    optimiser_of,
    read_record,
    save,
    take_over,
)

DIGEST = "0" * 64


def fitted(experiment: Experiment, **fitting: Any) -> Experiment:
    return experiment.model_copy(update={"fitting": experiment.fitting.model_copy(update=fitting)})


def equal(one: runs.State, other: runs.State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_fresh_weights_follow_from_the_seed(experiment: Experiment) -> None:
    one, same, other = (
        new_run(fitted(experiment, seed=seed), DIGEST).network.state_dict() for seed in (1, 1, 2)
    )
    assert equal(one, same)
    assert not equal(one, other)


def test_the_constant_rate_is_constant_from_the_first_step(experiment: Experiment) -> None:
    how = fitted(experiment, schedule="constant", steps=1000).fitting
    assert {learning_rate(step, how) for step in range(1000)} == {0.01}


@pytest.mark.parametrize(
    ("schedule", "half", "end"), [("cosine", 0.5, 0.01), ("polynomial", 0.5**0.9, 0.002)]
)
def test_a_rate_rises_for_a_twentieth_and_then_falls(
    experiment: Experiment, schedule: str, half: float, end: float
) -> None:
    how = fitted(experiment, schedule=schedule, steps=1000).fitting
    rates = [learning_rate(step, how) / 0.01 for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50, rel=0.01)
    assert max(rates) == rates[49] > 0.95
    assert all(a > b or b == 0.01 for a, b in pairwise(rates[49:]))
    assert rates[500] == pytest.approx(half, rel=0.01)
    assert rates[-1] == pytest.approx(end, rel=0.02)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimiser_takes_its_settings_from_the_experiment(experiment: Experiment, name: str) -> None:
    how = fitted(experiment, optimiser=name, weight_decay=0.03).fitting
    optimiser = optimiser_of(torch.nn.Linear(2, 2), how)
    assert type(optimiser).__name__.lower() == name
    assert optimiser.param_groups[0]["lr"] == 0.01
    assert optimiser.param_groups[0]["weight_decay"] == 0.03


def test_the_network_that_is_kept_is_the_moving_average_where_one_is_made(experiment: Experiment) -> None:
    averaged = new_run(experiment, DIGEST)
    assert averaged.average is not None and averaged.kept is averaged.average.module
    plain = new_run(fitted(experiment, average_decay=0.0), DIGEST)
    assert plain.average is None and plain.kept is plain.network


def steps_of_one(run: runs.Run, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the weights by 1 `count` times; the kept weights before the last step and after it."""
    assert run.average is not None
    run.average.update_parameters(run.network)
    weight, kept = next(run.network.parameters()), next(run.kept.parameters())
    for _ in range(count):
        before = kept.detach().clone()
        with torch.no_grad():
            weight.add_(1.0)
        run.average.update_parameters(run.network)
    return before, kept


def test_the_moving_average_follows_slowly_once_it_runs(experiment: Experiment) -> None:
    run = new_run(fitted(experiment, average_decay=0.5), DIGEST)
    before, kept = steps_of_one(run, 20)
    torch.testing.assert_close(kept - before, torch.full_like(kept, 1.0), rtol=1e-3, atol=1e-3)
    weight = next(run.network.parameters())
    torch.testing.assert_close(weight - kept, torch.full_like(kept, 1.0), rtol=1e-3, atol=1e-3)


def test_the_moving_average_of_a_short_run_keeps_little_of_its_start(experiment: Experiment) -> None:
    run = new_run(fitted(experiment, average_decay=0.995), DIGEST)
    _, kept = steps_of_one(run, 100)
    behind = next(run.network.parameters()) - kept
    assert behind.max() < 15.0  # a decay of 0.995 from the start would be 78 behind


def saved(experiment: Experiment, folder: Path, step: int) -> runs.Run:
    run = open_run(experiment, folder, DIGEST)
    with torch.no_grad():
        for weight in run.network.parameters():
            weight.add_(0.01 * step)
    run.record["step"] = step
    save(run, folder, better=True)
    return run


class Killed(Exception):
    pass


@pytest.mark.parametrize("files_written", range(4))
def test_a_run_that_is_killed_while_saving_is_whole_before_or_after_it(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_written: int
) -> None:
    """Each of the three files is replaced at once; the kill falls between any two of them."""
    before = saved(experiment, tmp_path, 2).network.state_dict()
    before = {key: tensor.clone() for key, tensor in before.items()}
    replace = Path.replace
    done: list[str] = []

    def replace_until_killed(self: Path, target: Path) -> Path:
        if len(done) == files_written:
            raise Killed
        done.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_until_killed)
    if files_written < 3:
        with pytest.raises(Killed):
            saved(experiment, tmp_path, 4)
    else:
        saved(experiment, tmp_path, 4)
    monkeypatch.undo()

    again = open_run(experiment, tmp_path, DIGEST)
    assert done == [BEST, LAST, RUN][:files_written]
    assert again.step == (4 if LAST in done else 2)
    assert equal(again.network.state_dict(), before) == (again.step == 2), (
        "weights and record belong together"
    )
    assert json.loads((tmp_path / RUN).read_text())["step"] == (4 if RUN in done else 2)
    torch.load(tmp_path / BEST, weights_only=True)


def test_a_first_save_that_is_killed_before_the_record_can_be_continued(
    experiment: Experiment, tmp_path: Path
) -> None:
    saved(experiment, tmp_path, 2)
    (tmp_path / RUN).unlink()
    assert open_run(experiment, tmp_path, DIGEST).step == 2


def test_what_a_killed_save_left_is_overwritten(experiment: Experiment, tmp_path: Path) -> None:
    for name in (LAST, BEST, RUN):
        (tmp_path / f"{name}.tmp").write_bytes(b"half a fi")
    assert open_run(experiment, tmp_path, DIGEST).step == 0
    saved(experiment, tmp_path, 2)
    assert not list(tmp_path.glob("*.tmp"))
    assert open_run(experiment, tmp_path, DIGEST).step == 2


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("fitting", {"learning_rate": 0.02}),
        ("loss", {"lesion": 5.0}),
        ("augmentation", {"noise": 0.3}),
        ("preprocessing", {"overlap": 0.5}),
        ("network", {"channels": [8, 8]}),
        ("data", {"train_share": 0.5}),
    ],
)
def test_a_run_of_another_experiment_is_refused_by_section(
    experiment: Experiment, tmp_path: Path, section: str, change: dict[str, Any]
) -> None:
    saved(experiment, tmp_path, 2)
    part = getattr(experiment, section)
    new = part | change if isinstance(part, dict) else part.model_copy(update=change)
    with pytest.raises(RunError, match=f"was begun with other {section}: choose another --out"):
        open_run(experiment.model_copy(update={section: new}), tmp_path, DIGEST)


def test_a_run_of_other_data_or_another_start_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    saved(experiment, tmp_path, 2)
    with pytest.raises(RunError, match="begun with other data_digest"):
        open_run(experiment, tmp_path, "1" * 64)
    start = Start(new_run(fitted(experiment, seed=9), DIGEST).network.state_dict(), "elsewhere")
    with pytest.raises(RunError, match="begun with other init"):
        open_run(experiment, tmp_path, DIGEST, start)


def test_decision_limits_texts_and_the_place_of_the_data_may_change(
    experiment: Experiment, tmp_path: Path
) -> None:
    saved(experiment, tmp_path, 2)
    limits = experiment.postprocessing.model_copy(update={"probability_threshold": 0.7})
    data = experiment.data.model_copy(update={"folder": Path("elsewhere"), "attribution": "Another."})
    later = experiment.model_copy(update={"postprocessing": limits, "data": data})
    assert open_run(later, tmp_path, DIGEST).step == 2


def test_weights_of_the_same_network_are_taken_over_whole(experiment: Experiment) -> None:
    other = new_run(fitted(experiment, seed=9), DIGEST).network
    run = new_run(experiment, DIGEST, Start(other.state_dict(), "a bundle"))
    assert equal(run.network.state_dict(), other.state_dict())
    assert equal(run.kept.state_dict(), other.state_dict()), "the moving average begins there too"
    init = run.record["init"]
    assert (init["origin"], init["fresh"]) == ("a bundle", 0)
    assert init["taken_over"] == len(other.state_dict())
    assert run.step == 0


def test_weights_of_other_outputs_are_taken_over_but_for_the_last_layer(experiment: Experiment) -> None:
    other = new_run(
        experiment.model_copy(update={"network": experiment.network | {"out_channels": 5}}), DIGEST
    ).network
    run = new_run(fitted(experiment, seed=9), DIGEST, Start(other.state_dict(), "a bundle"))
    before, after = other.state_dict(), run.network.state_dict()
    fitting = [key for key in after if before[key].shape == after[key].shape]
    assert run.record["init"]["taken_over"] == len(fitting) < len(after)
    assert all(torch.equal(before[key], after[key]) for key in fitting)


def test_half_precision_weights_are_taken_over_in_full(experiment: Experiment) -> None:
    network = new_run(experiment, DIGEST).network
    half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    take_over(network, Start(half, "a bundle"))
    assert all(weight.dtype == torch.float32 for weight in network.parameters())


def test_weights_of_a_foreign_network_are_refused_by_their_origin(experiment: Experiment) -> None:
    foreign = torch.nn.Sequential(torch.nn.Linear(7, 7)).state_dict()
    with pytest.raises(RunError, match="no weight of that bundle fits"):
        new_run(experiment, DIGEST, Start(foreign, "that bundle"))


def test_a_run_tells_its_experiment_wherever_its_data_lie(experiment: Experiment, tmp_path: Path) -> None:
    saved(experiment, tmp_path / "run", 2)
    assert experiment_of(tmp_path / "run") == experiment
    assert experiment_of(tmp_path / "run", Path("moved")).data.folder == Path("moved")


def test_a_folder_without_a_run_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for ask in (read_record, experiment_of):
        with pytest.raises(RunError, match="begin one with `dicomtrain fit"):
            ask(tmp_path)
    with pytest.raises(RunError, match="run `dicomtrain fit` up to a validation"):
        best_state(tmp_path)
