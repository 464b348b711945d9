"""The committed bundles: complete, honest about themselves, and as good as they say.

How they fare on whole scans is not covered: those scans are not in the repository.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from inference.bundle import read_bundle
from inference.engine import Model
from training.cases import of_split
from training.config import Experiment, card_content, read_experiment
from training.evaluate import evaluate, model_finder
from training.readme import evaluation_section
from training.train import load, used_cases

REPOSITORY = Path(__file__).parents[2]
BUNDLES = sorted(path.parent.parent for path in (REPOSITORY / "config/models").glob("*/configs/dicom.json"))
EVERY = pytest.mark.parametrize("folder", BUNDLES, ids=lambda path: path.name)
MODALITIES = {"CT", "MR", "US"}
CHOSEN = {"postprocessing"}
"""What the export chooses on the validation cases instead of taking it from the file."""


def experiment_of(folder: Path) -> Experiment:
    return read_experiment(REPOSITORY / "config/training" / f"{folder.name.replace('-', '_')}.toml")


def test_every_modality_has_a_model() -> None:
    assert {read_bundle(folder).card.modality for folder in BUNDLES} == MODALITIES


@EVERY
def test_a_bundle_loads_without_being_trusted(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert (bundle.card.name, bundle.trusted) == (folder.name, False)
    Model(bundle, torch.device("cpu"))


@EVERY
def test_weights_are_small_and_in_half_precision(folder: Path) -> None:
    bundle = read_bundle(folder)
    state = torch.load(bundle.weights_path, weights_only=True)
    assert bundle.weights_path.stat().st_size < 20_000_000
    assert {tensor.dtype for tensor in state.values()} <= {torch.float16, torch.int64}


@EVERY
def test_the_card_says_what_the_experiment_file_says(folder: Path) -> None:
    bundle, experiment = read_bundle(folder), experiment_of(folder)
    expected, card = card_content(experiment), bundle.card.model_dump(mode="python")
    assert {key: card[key] for key in expected.keys() - CHOSEN} == {
        key: value for key, value in expected.items() if key not in CHOSEN
    }
    written = experiment.postprocessing
    for key in ("region", "smallest_lesion_mm3", "smallest_lesion_share"):
        assert getattr(bundle.card.postprocessing, key) == getattr(written, key)
    members = bundle.network_def.get("members", [bundle.network_def])
    assert all(member == experiment.network for member in members)


@EVERY
def test_the_figures_of_the_readme_are_those_of_the_card(folder: Path) -> None:
    bundle = read_bundle(folder)
    text = (folder / "docs/README.md").read_text(encoding="utf-8")
    metrics = bundle.card.metrics
    for found in (metrics["test"], *metrics["other_data"].values()):
        assert evaluation_section(found) in text
    assert bundle.card.training["data_digest_sha256"] in text
    for limit in experiment_of(folder).target.limits:
        assert limit in text
    for scan in metrics["whole_scans"]:
        row = next(line for line in text.splitlines() if line.startswith(f"| {scan['scan']}"))
        assert f"| {scan['n_false']} |" in row


@EVERY
def test_monai_reads_the_files_of_a_bundle(folder: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser.read_meta(str(folder / "configs/metadata.json"))
    bundle = read_bundle(folder)
    parser.get_parsed_content("network_def").load_state_dict(
        torch.load(bundle.weights_path, weights_only=True)
    )
    inputs = parser.get("_meta_")["network_data_format"]["inputs"]["image"]
    assert inputs["num_channels"] == len(inputs["channel_def"]) == bundle.card.preprocessing.channels


@pytest.mark.slow
@EVERY
def test_a_bundle_reaches_its_stated_figures_on_the_test_split(folder: Path) -> None:
    bundle, experiment = read_bundle(folder), experiment_of(folder)
    if not experiment.data.folder.exists():
        pytest.skip(f"{experiment.data.folder.name} is not here")
    data, cases = used_cases(experiment)
    finder = model_finder(Model(bundle, torch.device("cpu")))
    found = evaluate(finder, load(data, of_split(cases, "test")), bundle.card.labels).figures()
    stated = bundle.card.metrics["test"]
    assert found["n_cases"] == stated["n_cases"]
    for metric in ("dice", "iou"):
        assert found["mean"][metric]["mean"] == pytest.approx(stated["mean"][metric]["mean"], abs=0.01)
    for label, figures in stated["labels"].items():
        if figures["n_hit"] is not None:
            assert found["labels"][label]["n_hit"] == pytest.approx(figures["n_hit"], abs=1)
            assert found["labels"][label]["n_false"] == pytest.approx(figures["n_false"], abs=2)
