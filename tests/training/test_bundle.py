"""The committed lung nodule bundle: complete, honest about itself, and as good as it says.

How many false findings it shows on whole scans is not covered: those scans are not in the repository.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from inference.bundle import ModelBundle, read_bundle
from inference.engine import Model
from training.config import read_experiment
from training.data import of_split, read_manifest
from training.evaluate import evaluate
from training.readme import METRICS, metric_row
from training.train import card_content, load

REPOSITORY = Path(__file__).parents[2]
BUNDLE = REPOSITORY / "config/models/ct-lung-nodule"
EXPERIMENT = REPOSITORY / "config/training/ct_lung_nodule.toml"


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return read_bundle(BUNDLE)


def test_the_bundle_loads_without_being_trusted(bundle: ModelBundle) -> None:
    assert bundle.card.name == "ct-lung-nodule"
    assert not bundle.trusted
    Model(bundle, torch.device("cpu"))


def test_the_weights_are_small_and_in_half_precision(bundle: ModelBundle) -> None:
    state = torch.load(bundle.weights_path, weights_only=True)
    assert bundle.weights_path.stat().st_size < 5_500_000
    assert {tensor.dtype for tensor in state.values()} <= {torch.float16, torch.int64}


def test_the_card_says_what_the_experiment_file_says(bundle: ModelBundle) -> None:
    experiment = read_experiment(EXPERIMENT)
    card = bundle.card.model_dump(mode="python")
    assert {key: card[key] for key in card_content(experiment)} == card_content(experiment)
    assert bundle.network_def == experiment.network


def test_the_figures_of_the_readme_are_those_of_the_card(bundle: ModelBundle) -> None:
    text = (BUNDLE / "docs/README.md").read_text(encoding="utf-8")
    test = bundle.card.metrics["test"]
    for key in METRICS:
        assert metric_row(key, test[key]) in text
    assert f"{test['n_lesions_hit']} of {test['n_lesions']} lesions" in text
    assert bundle.card.training["data_digest_sha256"] in text
    for scan in bundle.card.metrics["whole_scans"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| {scan['scan']}"))
        assert f"| {scan['n_false']} |" in row


def test_monai_builds_the_network_of_the_bundle() -> None:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    parser.read_meta(str(BUNDLE / "configs/metadata.json"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(BUNDLE / "models/model.pt", weights_only=True))
    inputs = parser.get("_meta_")["network_data_format"]["inputs"]["image"]
    assert inputs["num_channels"] == len(inputs["channel_def"]) == 5


@pytest.mark.slow
def test_the_bundle_reaches_its_stated_figures_on_the_test_split(bundle: ModelBundle) -> None:
    experiment = read_experiment(EXPERIMENT)
    if not experiment.data.folder.exists():
        pytest.skip("the LIDC crops are not here")
    cases = of_split(read_manifest(experiment.data.folder), "test")
    found = evaluate(Model(bundle, torch.device("cpu")), load(experiment, cases)).to_plain()
    stated = bundle.card.metrics["test"]
    assert found["n_cases"] == stated["n_cases"] == 70
    for key in ("dice", "iou"):
        assert found[key]["mean"] == pytest.approx(stated[key]["mean"], abs=0.01)
    assert found["n_lesions_hit"] == pytest.approx(stated["n_lesions_hit"], abs=1)
    assert found["n_false_findings"] == pytest.approx(stated["n_false_findings"], abs=2)
