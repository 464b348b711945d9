"""From run folders to a model bundle, which is read back and compared before it counts as done."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch

from inference.bundle import CARD, METADATA, NETWORK, ModelBundle, read_bundle
from inference.engine import Model
from inference.networks.build import build_network
from inference.preprocess import prepare
from inference.volume import Volume
from training.calibrate import Calibrated, calibrate
from training.cases import of_split
from training.config import Experiment, card_content
from training.errors import RunError
from training.evaluate import ScanResult, evaluate, evaluate_scan, model_finder
from training.monai_files import inference_config, metadata
from training.readme import render
from training.results import Evaluation
from training.run import State, best_state, differing, plain, read_record
from training.scans import read_nrrd, read_nrrd_mask
from training.train import in_memory_bundle, load, used_cases

WEIGHTS = "models/model.pt"
LARGEST_DIFFERENCE = 1e-5
"""Probabilities before and after writing may differ by this much."""
ENSEMBLE = "inference.networks.ensemble.Ensemble"


@dataclass(frozen=True)
class Wishes:
    """What an export measures beside the test split."""

    scans: Sequence[Path] = ()
    others: dict[str, Experiment] = field(default_factory=dict)
    """Other data, by the name of its experiment file: its test cases show how far the model carries."""
    most_false_per_case: float | None = None
    calibrated: bool = True


@dataclass(frozen=True)
class Measured:
    """What was measured of a model before it was written."""

    test: Evaluation
    others: dict[str, Evaluation]
    scans: tuple[ScanResult, ...]
    calibrated: Calibrated | None


@dataclass(frozen=True)
class Exported:
    """A finished bundle and what was measured on the way."""

    bundle: ModelBundle
    measured: Measured


def export(
    experiment: Experiment, runs: Sequence[Path], folder: Path, wishes: Wishes, say: Callable[[str], None]
) -> Exported:
    """Calibrate the best weights of `runs`, measure them and write them as a bundle to `folder`.

    Several runs become an ensemble: the mean of their probabilities. Raises RunError when a run does
    not belong to the experiment or the bundle read back predicts something else.
    """
    records = [read_record(run) for run in runs]
    for run, record in zip(runs, records, strict=True):
        _check_same(experiment, record, run, alone=len(runs) == 1)
    experiment, state = joined(experiment, [best_state(run) for run in runs])
    network = build_network(experiment.network)
    network.load_state_dict({name: _float(tensor) for name, tensor in state.items()})
    calibrated = None
    if wishes.calibrated:
        say("calibrating on the validation cases")
        calibrated = calibrate(
            _model(experiment, network), _cases(experiment, "val"), wishes.most_false_per_case
        )
        experiment = experiment.model_copy(update={"postprocessing": calibrated.postprocessing})
    model = _model(experiment, network)
    measured = measure(experiment, model, wishes, calibrated, say)
    write_bundle(experiment, records, state, folder, measured)
    say("reading the bundle back")
    return Exported(verify(folder, model, _cases(experiment, "val")[0].volume), measured)


def measure(
    experiment: Experiment,
    model: Model,
    wishes: Wishes,
    calibrated: Calibrated | None,
    say: Callable[[str], None],
) -> Measured:
    """The test split, other data and whole scans."""
    labels = experiment.target.labels
    say("evaluating the test cases")
    test = evaluate(model_finder(model), _cases(experiment, "test"), labels)
    others = {}
    for name, other in wishes.others.items():
        say(f"evaluating the test cases of {name}")
        others[name] = evaluate(model_finder(model), _cases(other, "test"), labels)
    scans = []
    for path in wishes.scans:
        say(f"segmenting {path.name}")
        scans.append(scan(model, path))
    return Measured(test, others, tuple(scans), calibrated)


def scan(model: Model, path: Path, mask: Path | None = None) -> ScanResult:
    """Segment the scan `NAME_image.nrrd`; truth is `mask`, or `NAME_label.nrrd` beside it if there."""
    volume = read_nrrd(path, model.bundle.card.intensity_unit)
    beside = path.with_name(path.name.replace("_image", "_label"))
    if mask is None and beside != path and beside.exists():
        mask = beside
    truth = None if mask is None else read_nrrd_mask(mask, volume)
    return evaluate_scan(model, path.name, volume, truth)[0]


def joined(experiment: Experiment, states: Sequence[State]) -> tuple[Experiment, State]:
    """The weights, rounded to the half precision in which a bundle keeps them; several as an ensemble."""
    halved = [_half_state(state) for state in states]
    if len(states) == 1:
        return experiment, halved[0]
    members = [experiment.network] * len(states)
    network = {"_target_": ENSEMBLE, "members": members}
    state = {
        f"members.{number}.{name}": tensor
        for number, member in enumerate(halved)
        for name, tensor in member.items()
    }
    return Experiment.model_validate(experiment.model_dump() | {"network": network}), state


def write_bundle(
    experiment: Experiment,
    records: Sequence[dict[str, Any]],
    state: State,
    folder: Path,
    measured: Measured,
) -> None:
    """Write every file of the bundle."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / WEIGHTS)
    training = training_summary(records)
    card = card_content(experiment) | {
        "schema_version": 1,
        "training": training,
        "metrics": metrics(measured),
        "weights": WEIGHTS,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }
    _write_json(folder / CARD, card)
    _write_json(folder / NETWORK, inference_config(experiment))
    _write_json(folder / METADATA, metadata(experiment))
    readme = render(experiment, training, card["metrics"])
    (folder / "docs/README.md").write_text(readme, encoding="utf-8")
    (folder / "LICENSE").write_text(licence_text(), encoding="utf-8")


def metrics(measured: Measured) -> dict[str, Any]:
    """Everything measured, as it stands in the model card."""
    content: dict[str, Any] = {
        "test": measured.test.figures(),
        "other_data": {name: found.figures() for name, found in measured.others.items()},
        "whole_scans": [asdict(result) for result in measured.scans],
    }
    if measured.calibrated is not None:
        chosen = measured.calibrated
        content["calibration"] = {
            "temperature": chosen.temperature,
            "ece_before": chosen.before.ece,
            "ece_after": chosen.after.ece,
            "brier_before": chosen.before.brier,
            "brier_after": chosen.after.brier,
            "operating_point": None if chosen.operating_point is None else asdict(chosen.operating_point),
        }
    return content


def licence_text() -> str:
    """The project's own licence: from the source tree, or from the installed distribution."""
    beside = Path(__file__).parent.parent / "LICENSE"
    if beside.exists():
        return beside.read_text(encoding="utf-8")
    text = distribution("pacs-lesion-node").read_text("licenses/LICENSE")
    if text is None:
        raise RunError("the project's LICENSE is not installed: run the export from the source tree")
    return text


def training_summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the weights came about, for the model card; of an ensemble, a line per member."""
    first = records[0]
    bests = [_best(record) for record in records]
    return {
        "command": "dicomtrain fit EXPERIMENT.toml --data DATA_FOLDER --out RUN_DIR",
        "members": len(records),
        "seed": _each(record["experiment"]["fitting"]["seed"] for record in records),
        "data_digest_sha256": first["data_digest"],
        "steps": _each(record["step"] for record in records),
        "best_step": _each(best["step"] for best in bests),
        "best_validation_dice": _each(round(best["val_dice"], 4) for best in bests),
        "seconds": _each(round(record["seconds"]) for record in records),
        "begun_with": _each((record["init"] or {}).get("origin", "random weights") for record in records),
        "precision": first["experiment"]["fitting"]["precision"],
        "device": f"{first['device']} ({platform.machine()})",
        "torch": torch.__version__,
        "monai": version("monai"),
    }


def _best(record: dict[str, Any]) -> dict[str, Any]:
    keep = record["experiment"]["fitting"]["keep"]
    history: list[dict[str, Any]] = record["history"]
    if keep == "dice":
        return max(history, key=lambda entry: float(entry["val_dice"]))
    return min(history, key=lambda entry: float(entry["val_loss"]))


def _each(values: Any) -> Any:
    listed = list(values)
    return listed[0] if len(listed) == 1 else listed


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


def _model(experiment: Experiment, network: torch.nn.Module) -> Model:
    return Model(in_memory_bundle(experiment), torch.device("cpu"), network)


def _cases(experiment: Experiment, split: Any) -> list[Any]:
    data, cases = used_cases(experiment)
    return list(load(data, of_split(cases, split)))


def _check_same(experiment: Experiment, record: dict[str, Any], run: Path, alone: bool) -> None:
    """Members of an ensemble may differ in how they were fitted, not in what they are."""
    expected = plain(experiment)
    other = differing(expected, record["experiment"])
    if not alone:
        other = [section for section in other if section not in ("fitting", "loss", "augmentation")]
    if other:
        raise RunError(f"{run} was trained with other {', '.join(other)} than the experiment file says")


def _half_state(state: State) -> State:
    """In half precision; what some networks list under two names stays one tensor in the file."""
    done: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if tensor.data_ptr() not in done:
            done[tensor.data_ptr()] = tensor.half() if tensor.is_floating_point() else tensor
    return {name: done[tensor.data_ptr()] for name, tensor in state.items()}


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
