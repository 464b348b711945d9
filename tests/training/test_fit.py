"""A few steps on made balls: repeating, continuing, stopping, refusing. How well it learns is not covered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.device import best_device
from tests.training.crops import save as save_nifti
from tests.training.crops import write_crops
from training import train
from training.cases import digest, of_split
from training.config import Experiment
from training.errors import DataError, RunError
from training.run import BEST, BOARD, LAST, RUN, Start, best_state, new_run, read_record
from training.synthetic import insert
from training.train import Progress, fit, merit, used_cases


class Interrupted(Exception):
    pass


def quiet(_: Progress) -> None:
    """Report nothing."""


def stop_at(step: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Interrupted

    return report


def fitted(experiment: Experiment, **fitting: Any) -> Experiment:
    return experiment.model_copy(update={"fitting": experiment.fitting.model_copy(update=fitting)})


def equal(one: Any, other: Any) -> bool:
    """Two nested checkpoints, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def weights_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint without the record, which holds the time taken."""
    state: dict[str, Any] = torch.load(folder / LAST, weights_only=True)
    return {key: part for key, part in state.items() if key != "record"}


SETTINGS: dict[str, dict[str, Any]] = {
    "adamw, bfloat16, averaged": {"optimiser": "adamw", "precision": "bfloat16", "average_decay": 0.9},
    "adamw, float32": {"optimiser": "adamw", "precision": "float32", "average_decay": 0.0},
    "adam, float32, averaged": {"optimiser": "adam", "precision": "float32", "average_decay": 0.9},
    "adam, bfloat16, by loss": {"precision": "bfloat16", "average_decay": 0.0, "keep": "loss"},
    "sgd, bfloat16": {"optimiser": "sgd", "precision": "bfloat16", "average_decay": 0.0},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_interrupted_run_continues_to_the_very_same_bits(
    experiment: Experiment, tmp_path: Path, settings: dict[str, Any]
) -> None:
    network = experiment.network | {"dropout": 0.2}  # random numbers that a checkpoint does not hold
    experiment = fitted(experiment.model_copy(update={"network": network}), **settings)
    fit(experiment, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        fit(experiment, tmp_path / "torn", stop_at(3))
    assert read_record(tmp_path / "torn")["step"] == 2
    fit(experiment, tmp_path / "torn", quiet)

    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "torn"))
    assert equal(best_state(tmp_path / "whole"), best_state(tmp_path / "torn"))
    whole, torn = (read_record(tmp_path / name) for name in ("whole", "torn"))
    assert whole.pop("seconds") > 0 and torn.pop("seconds") > 0
    assert whole == torn


def test_two_runs_of_one_seed_agree_and_another_seed_does_not(experiment: Experiment, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        fit(fitted(experiment, seed=seed, steps=2), tmp_path / name, quiet)
    one, same, other = (weights_of(tmp_path / name)["network"] for name in ("one", "same", "other"))
    assert equal(one, same)
    assert not equal(one, other)


def test_training_lowers_the_loss_and_keeps_the_best_weights(experiment: Experiment, tmp_path: Path) -> None:
    told: list[Progress] = []
    fit(fitted(experiment, steps=30, validate_every=10, average_decay=0.5), tmp_path / "run", told.append)
    record = read_record(tmp_path / "run")
    assert [entry["step"] for entry in record["history"]] == [10, 20, 30]
    assert record["history"][-1]["loss"] < 0.8 * record["history"][0]["loss"]
    assert record["history"][-1]["val_loss"] < record["history"][0]["val_loss"]
    assert record["best"] == pytest.approx(max(e["val_dice"] for e in record["history"]), abs=0.01)
    steps = [progress for progress in told if progress.val_dice is None]
    assert [progress.step for progress in steps] == list(range(1, 31))
    assert record["history"][0]["loss"] == pytest.approx(math.fsum(p.loss for p in steps[:10]) / 10)
    assert [p.val_dice for p in told if p.val_dice is not None] == [e["val_dice"] for e in record["history"]]


def test_the_history_and_the_curves_are_written_at_every_validation_and_the_last_step(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit(fitted(experiment, steps=3), tmp_path / "run", quiet)
    record = read_record(tmp_path / "run")
    assert [entry["step"] for entry in record["history"]] == [2, 3]
    assert all(entry.keys() == {"step", "loss", "val_loss", "val_dice"} for entry in record["history"])
    assert (record["step"], record["init"], record["device"]) == (3, None, str(best_device()))
    events = list((tmp_path / "run" / BOARD).glob("events.out.tfevents.*"))
    assert len(events) == 2 and all(path.stat().st_size for path in events)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {RUN, LAST, BEST, BOARD}


def test_of_two_validations_with_about_the_same_dice_the_lower_loss_is_kept() -> None:
    early, later = {"val_dice": 0.104, "val_loss": 1.3}, {"val_dice": 0.1, "val_loss": 0.8}
    assert merit(later, "dice") > merit(early, "dice")
    assert merit(early | {"val_dice": 0.2}, "dice") > merit(later, "dice")
    assert merit(later, "loss") > merit(early | {"val_dice": 0.2}, "loss")


def test_validation_ignores_the_limits_of_the_shipped_network(experiment: Experiment, tmp_path: Path) -> None:
    """A limit that no probability reaches, as a file may hold for a network of other temperature."""
    limits = experiment.postprocessing.model_copy(update={"peak_probability": 0.999999})
    for name, postprocessing in (("plain", experiment.postprocessing), ("limited", limits)):
        run = fitted(experiment, steps=30, validate_every=10, average_decay=0.5)
        fit(run.model_copy(update={"postprocessing": postprocessing}), tmp_path / name, quiet)
    plain, limited = (read_record(tmp_path / name)["history"] for name in ("plain", "limited"))
    assert [entry["val_dice"] for entry in limited] == [entry["val_dice"] for entry in plain]
    assert max(entry["val_dice"] for entry in plain) > 0


class Scores:
    """Stands in for the validation loss: given figures, one after the other."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def __call__(self, *_: object) -> float:
        return self.values.pop(0)


def test_a_run_without_patience_for_worse_validations_stops_and_stays_stopped(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "validation_loss", Scores(0.9, 0.5, 0.6, 0.5, 0.1, 0.1))
    impatient = fitted(experiment, steps=6, validate_every=1, keep="loss", patience=2, average_decay=0.0)
    fit(impatient, tmp_path / "run", quiet)
    record = read_record(tmp_path / "run")
    assert (record["step"], record["best"], record["without_better"]) == (4, -0.5, 2)
    before = weights_of(tmp_path / "run")
    assert not equal(best_state(tmp_path / "run"), before["network"]), "the weights of step 2 are kept"

    told: list[Progress] = []
    fit(impatient, tmp_path / "run", told.append)
    assert told == []
    assert equal(weights_of(tmp_path / "run"), before)
    assert read_record(tmp_path / "run") == record


def test_a_better_validation_renews_the_patience(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "validation_loss", Scores(0.9, 1.0, 0.5, 0.6, 0.4))
    fit(fitted(experiment, steps=5, validate_every=1, keep="loss", patience=2), tmp_path / "run", quiet)
    assert read_record(tmp_path / "run")["step"] == 5


def test_a_finished_run_is_not_trained_further(experiment: Experiment, tmp_path: Path) -> None:
    fit(fitted(experiment, steps=2), tmp_path / "run", quiet)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.pt")}
    fit(fitted(experiment, steps=2), tmp_path / "run", stop_at(3))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.pt")} == before


def test_a_finished_run_whose_record_lags_behind_gets_it_back(experiment: Experiment, tmp_path: Path) -> None:
    fit(fitted(experiment, steps=2), tmp_path / "run", quiet)
    record = read_record(tmp_path / "run")
    (tmp_path / "run" / RUN).unlink()
    fit(fitted(experiment, steps=2), tmp_path / "run", quiet)
    assert read_record(tmp_path / "run") == record


def test_a_run_of_another_experiment_other_data_or_another_start_is_not_continued(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit(fitted(experiment, steps=2), tmp_path / "run", quiet)
    with pytest.raises(RunError, match="begun with other fitting"):
        fit(fitted(experiment, steps=8), tmp_path / "run", quiet)
    start = Start(new_run(experiment, "").network.state_dict(), "a bundle")
    with pytest.raises(RunError, match="begun with other init"):
        fit(fitted(experiment, steps=2), tmp_path / "run", quiet, start)
    save_nifti(tmp_path / "crops/CASE_4/raters.nii.gz", np.zeros((48, 40, 5), np.uint8))
    with pytest.raises(RunError, match="begun with other data_digest"):
        fit(fitted(experiment, steps=2), tmp_path / "run", quiet)


def test_training_begins_with_the_weights_that_are_given(experiment: Experiment, tmp_path: Path) -> None:
    still = fitted(experiment, steps=1, learning_rate=1e-12, weight_decay=0.0, average_decay=0.0)
    network = new_run(fitted(experiment, seed=77), "").network
    fit(still, tmp_path / "run", quiet, Start(network.state_dict(), "a bundle"))
    kept = best_state(tmp_path / "run")
    for name, weight in network.named_parameters():
        torch.testing.assert_close(kept[name], weight.detach(), atol=1e-6, rtol=0)
    assert read_record(tmp_path / "run")["init"]["origin"] == "a bundle"
    foreign = Start(torch.nn.Linear(7, 7).state_dict(), "that bundle")
    with pytest.raises(RunError, match="no weight of that bundle fits"):
        fit(still, tmp_path / "other", quiet, foreign)


@pytest.mark.parametrize(("share", "groups"), [(1.0, 9), (0.5, 4), (0.34, 3), (0.01, 1)])
def test_a_share_of_the_training_groups_touches_no_other_split(
    experiment: Experiment, tmp_path: Path, share: float, groups: int
) -> None:
    folder = write_crops(tmp_path / "many", ("train",) * 9 + ("val", "val", "test", "test"))
    experiment = experiment.model_copy(
        update={"data": experiment.data.model_copy(update={"folder": folder, "train_share": share})}
    )
    data, cases = used_cases(experiment)
    assert len({case.group for case in of_split(cases, "train")}) == groups
    assert of_split(cases, "val") == of_split(data.cases(), "val")
    assert of_split(cases, "test") == of_split(data.cases(), "test")
    assert used_cases(experiment)[1] == cases
    if share < 1.0:
        assert digest(data, cases) != digest(data, data.cases())
        fuller = experiment.model_copy(
            update={"data": experiment.data.model_copy(update={"train_share": min(1.0, 2 * share)})}
        )
        more = {case.name for case in of_split(used_cases(fuller)[1], "train")}
        assert {case.name for case in of_split(cases, "train")} <= more, "a larger share adds to a smaller"


def corrupt(folder: Path) -> None:
    path = folder / "CASE_1" / "ct.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def lose_the_mask(folder: Path) -> None:
    (folder / "CASE_1" / "raters.nii.gz").unlink()


def shrink_the_mask(folder: Path) -> None:
    save_nifti(folder / "CASE_1" / "raters.nii.gz", np.zeros((48, 40, 4), np.uint8))


def lose_a_test_image(folder: Path) -> None:
    (folder / "CASE_4" / "ct.nii.gz").unlink()


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (corrupt, "CASE_1/ct.nii.gz"),
        (lose_the_mask, "CASE_1/raters.nii.gz"),
        (shrink_the_mask, "CASE_1/raters.nii.gz"),
        (lose_a_test_image, "CASE_4/ct.nii.gz"),
    ],
)
def test_unusable_data_are_refused_by_file_before_the_first_step(
    experiment: Experiment, tmp_path: Path, damage: Any, name: str
) -> None:
    damage(tmp_path / "crops")
    told: list[Progress] = []
    with pytest.raises(DataError, match=name):
        fit(experiment, tmp_path / "run", told.append)
    assert told == []


def test_data_without_a_validation_case_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "few", ("train", "train", "test"))
    few = experiment.model_copy(update={"data": experiment.data.model_copy(update={"folder": folder})})
    with pytest.raises(DataError, match="no case in split 'val'"):
        fit(few, tmp_path / "run", quiet)


def test_a_loss_that_is_not_finite_ends_the_run_and_stays_out_of_its_history(
    experiment: Experiment, tmp_path: Path
) -> None:
    wild = fitted(experiment, learning_rate=1e30, schedule="constant", precision="float32", validate_every=1)
    with pytest.raises(RunError, match=r"at step \d+: lower fitting.learning_rate"):
        fit(wild, tmp_path / "wild", quiet)
    history = read_record(tmp_path / "wild")["history"]
    assert history and all(math.isfinite(entry["loss"]) for entry in history)


@pytest.mark.parametrize("name", ["3-D", "deep supervision"])
def test_three_dimensions_and_deep_supervision_train_and_continue(
    experiment: Experiment, tmp_path: Path, name: str
) -> None:
    how = experiment.preprocessing.model_copy(
        update={"spatial_dims": 3, "context_slices": 0, "window_size": (8, 32, 32)}
    )
    network: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    if name == "3-D":
        network |= {"_target_": "monai.networks.nets.UNet", "channels": [4, 8], "strides": [2]}
    else:
        network |= {
            "_target_": "monai.networks.nets.DynUNet",
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [4, 8, 8],
            "deep_supervision": True,
            "deep_supr_num": 1,
        }
    update = {"preprocessing": how, "network": network}
    # With bfloat16, oneDNN's 3-D convolutions differ from run to run on processors that have it built in.
    deep = fitted(experiment.model_copy(update=update), window_size=(8, 32, 32), precision="float32")
    fit(deep, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        fit(deep, tmp_path / "torn", stop_at(3))
    fit(deep, tmp_path / "torn", quiet)
    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "torn"))
    assert all(math.isfinite(entry["val_loss"]) for entry in read_record(tmp_path / "whole")["history"])


def test_synthetic_lesions_of_training_cases_take_part(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted = []

    def counting(*arguments: Any) -> Any:
        inserted.append(arguments[2])
        return insert(*arguments)

    monkeypatch.setattr("training.windows.insert", counting)
    change = experiment.augmentation.model_copy(update={"synthetic_lesions": 1.0})
    fit(fitted(experiment.model_copy(update={"augmentation": change}), steps=2), tmp_path / "run", quiet)
    assert len(inserted) == 2 * experiment.fitting.batch_size, "in training windows, and in no others"
