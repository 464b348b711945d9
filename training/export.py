"""From a run folder to a model bundle, which is read back and compared before it counts as done."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.bundle import CARD, METADATA, NETWORK, ModelBundle, read_bundle
from inference.engine import Model
from inference.networks.build import build_network
from inference.preprocess import prepare
from inference.volume import Volume
from training.config import Experiment
from training.data import of_split, read_manifest
from training.errors import RunError
from training.evaluate import Evaluation, ScanResult, evaluate, evaluate_scan
from training.readme import render
from training.scans import read_nrrd, read_nrrd_mask
from training.train import BEST, card_content, differing, in_memory_bundle, load, plain, read_record

WEIGHTS = "models/model.pt"
LARGEST_DIFFERENCE = 1e-5
"""Probabilities before and after writing may differ by this much."""


@dataclass(frozen=True)
class Exported:
    """A finished bundle and what was measured on the way."""

    bundle: ModelBundle
    test: Evaluation
    scans: tuple[ScanResult, ...]


def export(
    experiment: Experiment, run: Path, folder: Path, scans: list[Path], say: Callable[[str], None]
) -> Exported:
    """Evaluate the best weights of `run` on the test split and write them as a bundle to `folder`.

    Raises RunError when the run does not belong to the experiment or the bundle read back predicts
    something else.
    """
    record = read_record(run)
    _check_same(experiment, record, run)
    model = Model(in_memory_bundle(experiment), torch.device("cpu"), best_network(experiment, run))
    cases = list(load(experiment, of_split(read_manifest(experiment.data.folder), "test")))
    say(f"evaluating {len(cases)} test cases")
    test = evaluate(model, cases)
    results = []
    for path in scans:
        say(f"segmenting {path.name}")
        results.append(scan(model, path))
    write_bundle(experiment, record, model, folder, test, tuple(results))
    say("reading the bundle back")
    return Exported(verify(folder, model, cases[0].volume), test, tuple(results))


def scan(model: Model, path: Path, mask: Path | None = None) -> ScanResult:
    """Segment the scan `NAME_image.nrrd`; truth is `mask`, or `NAME_label.nrrd` beside it if there."""
    volume = read_nrrd(path, model.bundle.card.intensity_unit)
    beside = path.with_name(path.name.replace("_image", "_label"))
    if mask is None and beside != path and beside.exists():
        mask = beside
    truth = None if mask is None else read_nrrd_mask(mask, volume)
    return evaluate_scan(model, path.name, volume, truth)[0]


def best_network(experiment: Experiment, run: Path) -> torch.nn.Module:
    """The best weights of a run, rounded to the half precision in which the bundle keeps them."""
    try:
        state = torch.load(run / BEST, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{run / BEST} cannot be read: run `dicomtrain fit` up to a validation") from error
    network = build_network(experiment.network)
    network.load_state_dict({name: _float(_half(tensor)) for name, tensor in state.items()})
    return network


def write_bundle(
    experiment: Experiment,
    record: dict[str, Any],
    model: Model,
    folder: Path,
    test: Evaluation,
    scans: tuple[ScanResult, ...],
) -> None:
    """Write every file of the bundle."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    state = {name: _half(tensor) for name, tensor in model.network.state_dict().items()}
    torch.save(state, folder / WEIGHTS)
    training = training_summary(record)
    metrics = {"test": test.to_plain(), "whole_scans": [asdict(result) for result in scans]}
    card = card_content(experiment) | {
        "schema_version": 1,
        "training": training,
        "metrics": metrics,
        "weights": WEIGHTS,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }
    _write_json(folder / CARD, card)
    _write_json(folder / NETWORK, inference_config(experiment))
    _write_json(folder / METADATA, metadata(experiment))
    readme = render(experiment, training, test, scans)
    (folder / "docs/README.md").write_text(readme, encoding="utf-8")
    (folder / "LICENSE").write_text(licence_text(), encoding="utf-8")


def licence_text() -> str:
    """The project's own licence: from the source tree, or from the installed distribution."""
    beside = Path(__file__).parent.parent / "LICENSE"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    text = distribution("pacs-lesion-node").read_text("licenses/LICENSE")
    if text is None:
        raise RunError("the project's LICENSE is not installed: run the export from the source tree")
    return text


def training_summary(record: dict[str, Any]) -> dict[str, Any]:
    """How the weights came about, for the model card."""
    fitting, legs = record["experiment"]["fitting"], record["legs"]
    current = [entry for entry in record["history"] if entry["step"] > legs[-1]["from_step"]]
    best = max(current, key=lambda entry: entry["val_dice"])
    return {
        "command": "dicomtrain fit EXPERIMENT.toml --data DATA_FOLDER --out RUN_DIR",
        "legs": "; ".join(
            f"from step {leg['from_step']}: learning rate for {leg['fitting']['steps']} steps, "
            f"lesion weight {leg['loss']['lesion']:g}, missed {leg['loss']['missed']:g}"
            for leg in legs
        ),
        "seed": fitting["seed"],
        "data_digest_sha256": record["data_digest"],
        "steps": record["step"],
        "best_step": best["step"],
        "best_validation_dice": round(best["val_dice"], 4),
        "seconds": round(record["seconds"]),
        "device": f"{record['device']} ({platform.machine()})",
        "torch": torch.__version__,
        "monai": version("monai"),
    }


def inference_config(experiment: Experiment) -> dict[str, Any]:
    """`network_def` and a sliding-window inferer, as MONAI's bundle tools read them."""
    how = experiment.preprocessing
    return {
        "network_def": experiment.network,
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(how.window_size),
            "sw_batch_size": 8,
            "overlap": how.overlap,
            "mode": "gaussian",
        },
    }


def metadata(experiment: Experiment) -> dict[str, Any]:
    """`metadata.json` with the fields of the MONAI Bundle Specification."""
    target, how = experiment.target, experiment.preprocessing
    window = list(how.window_size)
    names = {"0": "background"} | {str(label.number): label.name for label in target.labels}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": target.version,
        "changelog": {target.version: f"exported {datetime.now(UTC):%Y-%m-%d}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "name": target.title,
        "task": f"Segmentation: {', '.join(label.name.lower() for label in target.labels)}",
        "description": target.description,
        "authors": target.authors,
        "copyright": target.copyright,
        "intended_use": "Research use only; not for clinical decisions",
        "network_data_format": {
            "inputs": {
                "image": _tensor("image", "intensity", how.channels, window, _channels(how.context_slices))
            },
            "outputs": {"pred": _tensor("segmentation", "probabilities", len(names), window, names)},
        },
    }


def verify(folder: Path, model: Model, volume: Volume) -> ModelBundle:
    """Load the bundle as the node does and compare one prediction; raises RunError on a difference."""
    bundle = read_bundle(folder)
    image = prepare(volume, bundle.card.preprocessing)
    expected = model.probabilities(image)
    found = Model(bundle, torch.device("cpu")).probabilities(image)
    difference = float((found - expected).abs().max())
    if difference > LARGEST_DIFFERENCE:
        raise RunError(f"{folder} predicts something else than the network in memory (by {difference:.2g})")
    return bundle


def _check_same(experiment: Experiment, record: dict[str, Any], run: Path) -> None:
    other = differing(plain(experiment), record["experiment"])
    if other:
        raise RunError(f"{run} was trained with other {', '.join(other)} than the experiment file says")


def _tensor(
    kind: str, content: str, channels: int, window: list[int], names: dict[str, str]
) -> dict[str, Any]:
    return {
        "type": kind,
        "format": content,
        "modality": "CT",
        "num_channels": channels,
        "spatial_shape": window,
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": names,
    }


def _channels(context_slices: int) -> dict[str, str]:
    offsets = range(-context_slices, context_slices + 1)
    return {str(i): f"slice {offset:+d}" if offset else "the slice" for i, offset in enumerate(offsets)}


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
