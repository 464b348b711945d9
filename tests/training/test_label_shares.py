"""Starts, and their comparison at shares of the labels, on a few tiny images."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.bundle import CARD, NETWORK
from inference.errors import BundleError
from inference.networks.build import build_network
from tests.training.discs import write_discs
from training.adjust import window_size, with_fitting
from training.cases import of_split
from training.config import Experiment, card_content, with_network
from training.errors import ExperimentError, RunError
from training.label_share_report import write_report
from training.label_shares import Part, PartResult, plan, read_starts, run_parts
from training.run import BEST, new_run
from training.start import read_start
from training.train import fit, used_cases


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return write_discs(tmp_path)


def quiet(*_: Any) -> None:
    """Report nothing."""


def write_bundle(folder: Path, experiment: Experiment, state: dict[str, torch.Tensor]) -> Path:
    """The files of a bundle that reading its weights needs."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    torch.save(state, folder / "models/model.pt")
    digest = hashlib.sha256((folder / "models/model.pt").read_bytes()).hexdigest()
    card = card_content(experiment) | {"weights_sha256": digest}
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    (folder / NETWORK).write_text(json.dumps({"network_def": experiment.network}), encoding="utf-8")
    return folder


def weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    return build_network(experiment.network).state_dict()


def test_a_training_can_begin_with_a_bundle_in_half_precision(experiment: Experiment, tmp_path: Path) -> None:
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in weights(experiment).items()
    }
    start = read_start(write_bundle(tmp_path / "bundle", experiment, half))
    run = new_run(experiment, "digest", start)
    assert run.record["init"]["origin"] == "bundle disc 0.1.0"
    assert run.record["init"]["fresh"] == 0
    taken = run.network.state_dict()
    assert all(torch.equal(taken[key].float(), half[key].float()) for key in half)


def test_a_bundle_with_damaged_weights_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", experiment, weights(experiment))
    content = bytearray((bundle / "models/model.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (bundle / "models/model.pt").write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        read_start(bundle)


def test_a_bundle_whose_weights_are_of_another_network_is_refused(
    experiment: Experiment, tmp_path: Path
) -> None:
    other = weights(with_network(experiment, "fcn"))
    with pytest.raises(BundleError, match="does not fit"):
        read_start(write_bundle(tmp_path / "bundle", experiment, other))


def test_a_bundle_of_another_network_than_the_experiment_is_refused_before_any_training(
    experiment: Experiment, tmp_path: Path
) -> None:
    other = with_network(experiment, "fcn")
    bundle = write_bundle(tmp_path / "bundle", other, weights(other))
    with pytest.raises(RunError, match="no weight of bundle disc"):
        read_starts(["scratch", str(bundle)], experiment)


def test_a_run_without_plain_weights_and_an_empty_folder_are_refused(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit(experiment, tmp_path / "run", quiet)
    assert read_start(tmp_path / "run").origin == "run run"
    (tmp_path / "run" / BEST).write_bytes(b"no weights")
    with pytest.raises(RunError, match="plain weights"):
        read_start(tmp_path / "run")
    (tmp_path / "run" / BEST).unlink()
    with pytest.raises(RunError, match=r"best\.pt"):
        read_start(tmp_path / "run")
    with pytest.raises(RunError, match="neither a bundle"):
        read_start(tmp_path / "discs")


def test_a_quarter_of_the_labels_is_a_quarter_of_the_groups_and_the_same_for_each_start(
    experiment: Experiment,
) -> None:
    parts = plan(experiment, {"scratch": None, "other": None}, [1.0, 0.25], [1, 2])
    groups = {part.name: {case.group for case in _train_cases(part)} for part in parts}
    assert {name: len(found) for name, found in groups.items() if "0.25" in name} == dict.fromkeys(
        (f"{start}/share-0.25/seed-{seed}" for start in ("scratch", "other") for seed in (1, 2)), 2
    )
    assert groups["scratch/share-0.25/seed-1"] == groups["other/share-0.25/seed-1"]
    assert groups["scratch/share-0.25/seed-1"] < groups["scratch/share-1/seed-1"]


def _train_cases(part: Part) -> list[Any]:
    return of_split(used_cases(part.experiment)[1], "train")


def test_a_comparison_reports_each_part_and_trains_none_of_them_again(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(tmp_path / "bundle", experiment, weights(experiment))
    starts = read_starts(["scratch", str(bundle)], experiment)
    parts = plan(experiment, starts, [0.25, 1.0], [3])
    out = tmp_path / "out"

    def run() -> list[PartResult]:
        return list(run_parts(parts, starts, out, quiet))

    results = run()
    rows = write_report(results, out)
    assert [(row.start, row.share, row.n_groups) for row in rows] == [
        ("scratch", 0.25, 2),
        ("bundle", 0.25, 2),
        ("scratch", 1.0, 8),
        ("bundle", 1.0, 8),
    ]
    assert [row.gain is None for row in rows] == [True, False, True, False]
    assert rows[1].gain == pytest.approx((rows[1].dice or 0.0) - (rows[0].dice or 0.0))
    with (out / "label_shares.csv").open(encoding="utf-8") as file:
        assert [float(line["dice"]) for line in csv.DictReader(file)] == [row.dice for row in rows]
    assert "| 25% | 2 | 2 | bundle |" in (out / "label_shares.md").read_text(encoding="utf-8")
    assert (out / "label_shares.png").stat().st_size > 1000

    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("training.label_shares.fit", refuse)
    again = run()
    assert [result.evaluation for result in again] == [result.evaluation for result in results]
    assert all(result.kept for result in again)
    parts[0] = plan(with_fitting(experiment, steps=6), starts, [0.25], [3])[0]
    with pytest.raises(AssertionError, match="trained again"):
        run()


def test_two_starts_of_one_name_are_refused(experiment: Experiment) -> None:
    with pytest.raises(ExperimentError, match="named 'scratch'"):
        read_starts(["scratch", "scratch"], experiment)


def test_a_share_or_window_that_is_none_is_refused(experiment: Experiment) -> None:
    with pytest.raises(ExperimentError, match="train_share"):
        plan(experiment, {"scratch": None}, [1.5], [1])
    assert window_size("96x128") == (96, 128)
    with pytest.raises(ExperimentError, match="192x192"):
        window_size("big")
    with pytest.raises(ExperimentError, match="needs 2 numbers"):
        with_fitting(experiment, window_size=(8, 8, 8))
