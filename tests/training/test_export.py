"""A bundle is what the training made of it: the same predictions, the promised files, no local path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inference.bundle import read_bundle
from inference.engine import Model
from inference.networks.build import build_network
from inference.preprocess import prepare
from tests.training.discs import write_discs
from training.cases import of_split
from training.config import Experiment
from training.errors import RunError
from training.export import Wishes, export
from training.run import best_state
from training.train import fit, in_memory_bundle, used_cases

FILES = {
    "LICENSE",
    "configs/dicom.json",
    "configs/inference.json",
    "configs/metadata.json",
    "docs/README.md",
    "models/model.pt",
}
HALF_PRECISION = 2e-2
"""Largest difference of a probability that rounding the weights may make."""


def quiet(_: object) -> None:
    """Report nothing."""


@pytest.fixture
def discs(tmp_path: Path) -> Experiment:
    return write_discs(tmp_path / "discs")


@pytest.fixture
def run(discs: Experiment, tmp_path: Path) -> Path:
    fit(discs, tmp_path / "run", quiet)
    return tmp_path / "run"


def wishes(calibrated: bool = False) -> Wishes:
    return Wishes(calibrated=calibrated)


def test_the_bundle_predicts_what_the_trained_network_predicts(
    discs: Experiment, run: Path, tmp_path: Path
) -> None:
    bundle = export(discs, [run], tmp_path / "bundle", wishes(), quiet).bundle
    network = build_network(discs.network)
    network.load_state_dict(best_state(run))
    trained = Model(in_memory_bundle(discs), torch.device("cpu"), network)
    data, cases = used_cases(discs)
    image = prepare(data.load(of_split(cases, "test")[0]).volume, discs.preprocessing)
    expected = trained.probabilities(image).numpy()
    assert expected.std() > 0.01
    assert Model(bundle).probabilities(image).numpy() == pytest.approx(expected, abs=HALF_PRECISION)


def test_the_folder_holds_the_promised_files_and_no_path_of_this_machine(
    discs: Experiment, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    export(discs, [run], folder, wishes(), quiet)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == FILES
    for name in FILES - {"models/model.pt"}:
        assert str(tmp_path) not in (folder / name).read_text(encoding="utf-8"), name


def test_two_runs_become_the_mean_of_their_probabilities(
    discs: Experiment, run: Path, tmp_path: Path
) -> None:
    other = discs.model_copy(update={"fitting": discs.fitting.model_copy(update={"seed": 7})})
    fit(other, tmp_path / "other", quiet)
    single = [
        Model(export(one, [folder], tmp_path / f"single-{number}", wishes(), quiet).bundle)
        for number, (one, folder) in enumerate([(discs, run), (other, tmp_path / "other")])
    ]
    both = Model(export(discs, [run, tmp_path / "other"], tmp_path / "both", wishes(), quiet).bundle)
    data, cases = used_cases(discs)
    image = prepare(data.load(of_split(cases, "test")[0]).volume, discs.preprocessing)
    mean = np.mean([model.probabilities(image).numpy() for model in single], axis=0)
    assert both.probabilities(image).numpy() == pytest.approx(mean, abs=1e-5)


def test_limits_that_were_chosen_are_written_and_explained(
    discs: Experiment, run: Path, tmp_path: Path
) -> None:
    done = export(discs, [run], tmp_path / "bundle", wishes(calibrated=True), quiet)
    assert done.measured.calibrated is not None
    chosen = done.measured.calibrated.postprocessing
    assert read_bundle(tmp_path / "bundle").card.postprocessing == chosen
    text = (tmp_path / "bundle/docs/README.md").read_text(encoding="utf-8")
    assert f"Probability threshold {chosen.probability_threshold:g}" in text
    assert "chosen on the validation cases" in text


def test_a_run_of_another_experiment_is_refused(discs: Experiment, run: Path, tmp_path: Path) -> None:
    other = discs.model_copy(update={"loss": discs.loss.model_copy(update={"lesion": 9.0})})
    with pytest.raises(RunError):
        export(other, [run], tmp_path / "bundle", wishes(), quiet)
    assert not (tmp_path / "bundle").exists()
