"""A few steps on synthetic balls: continuing, exporting, evaluating. How well it learns is not covered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inference.bundle import read_bundle
from inference.engine import Model
from inference.preprocess import prepare
from tests.training.crops import EXPERIMENT, write_crops, write_experiment
from training import train
from training.config import Experiment, read_experiment
from training.data import of_split, read_manifest
from training.errors import RunError
from training.export import best_network, export
from training.train import Progress, fit, in_memory_bundle, load, read_record


class Interrupted(Exception):
    pass


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_crops(tmp_path / "crops")
    return read_experiment(write_experiment(tmp_path))


def quiet(_: Progress) -> None:
    """Report nothing."""


def test_an_interrupted_run_continues_to_the_very_same_weights(
    experiment: Experiment, tmp_path: Path
) -> None:
    def stop_after_three(progress: Progress) -> None:
        if progress.step == 3:
            raise Interrupted

    fit(experiment, tmp_path / "whole", quiet)
    with pytest.raises(Interrupted):
        fit(experiment, tmp_path / "torn", stop_after_three)
    assert read_record(tmp_path / "torn")["step"] == 2
    fit(experiment, tmp_path / "torn", quiet)

    whole, torn = (torch.load(tmp_path / name / train.LAST, weights_only=True) for name in ("whole", "torn"))
    for part in ("network", "average"):
        assert all(torch.equal(whole[part][key], torn[part][key]) for key in whole[part])
    histories = [read_record(tmp_path / name)["history"] for name in ("whole", "torn")]
    assert histories[0][-1] == histories[1][-1]


def test_a_run_of_another_experiment_is_not_continued(experiment: Experiment, tmp_path: Path) -> None:
    fit(experiment, tmp_path / "run", quiet)
    slower = EXPERIMENT.replace("learning_rate = 1e-2", "learning_rate = 1e-3")
    with pytest.raises(RunError, match="begun with other fitting"):
        fit(read_experiment(write_experiment(tmp_path, slower)), tmp_path / "run", quiet)


def test_a_changed_loss_is_accepted_when_asked_for_and_recorded_as_a_leg(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit(experiment, tmp_path / "run", quiet)
    longer = EXPERIMENT.replace("steps = 4", "steps = 6") + "\n[loss]\nlesion = 3.0\n"
    changed = read_experiment(write_experiment(tmp_path, longer))
    fit(changed, tmp_path / "run", quiet, accept_changes=True)
    record = read_record(tmp_path / "run")
    assert record["step"] == 6
    assert [(leg["from_step"], leg["loss"]["lesion"]) for leg in record["legs"]] == [(0, 10.0), (4, 3.0)]
    done = export(changed, tmp_path / "run", tmp_path / "bundle", [], print)
    assert "from step 4" in done.bundle.card.training["legs"]


def test_a_decision_limit_may_change_between_fit_and_export(experiment: Experiment, tmp_path: Path) -> None:
    fit(experiment, tmp_path / "run", quiet)
    stricter = EXPERIMENT.replace("probability_threshold = 0.5", "probability_threshold = 0.7")
    changed = read_experiment(write_experiment(tmp_path, stricter))
    done = export(changed, tmp_path / "run", tmp_path / "bundle", [], print)
    assert done.bundle.card.postprocessing.probability_threshold == 0.7


def test_the_exported_bundle_is_accepted_and_predicts_what_the_run_predicts(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit(experiment, tmp_path / "run", quiet)
    export(experiment, tmp_path / "run", tmp_path / "bundle", [], print)

    bundle = read_bundle(tmp_path / "bundle")
    case = next(load(experiment, of_split(read_manifest(experiment.data.folder), "val")))
    image = prepare(case.volume, bundle.card.preprocessing)
    in_memory = Model(in_memory_bundle(experiment), network=best_network(experiment, tmp_path / "run"))
    assert torch.allclose(
        Model(bundle).probabilities(image), in_memory.probabilities(image), rtol=0, atol=1e-6
    )
    assert not bundle.trusted


def test_the_exported_bundle_holds_every_file_and_no_path_of_this_machine(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit(experiment, tmp_path / "run", quiet)
    export(experiment, tmp_path / "run", tmp_path / "bundle", [], print)
    files = {str(p.relative_to(tmp_path / "bundle")) for p in (tmp_path / "bundle").rglob("*") if p.is_file()}
    assert files == {
        "LICENSE",
        "configs/dicom.json",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.pt",
    }
    for name in files - {"models/model.pt"}:
        assert str(tmp_path) not in (tmp_path / "bundle" / name).read_text(encoding="utf-8")
    metadata = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    assert {"version", "monai_version", "pytorch_version", "network_data_format", "task"} <= metadata.keys()


def test_a_folder_without_a_run_is_refused_with_the_remedy(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="dicomtrain fit"):
        export(experiment, tmp_path / "nowhere", tmp_path / "bundle", [], print)
