"""The fast mode of a bundle: measured against its exact mode, and refused where the two differ too much."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from inference.bundle import CARD, METADATA, ModelBundle, read_bundle
from inference.engine import Model, quickened
from inference.fast_mode import FastMode, Precision
from inference.lesions import decide
from inference.networks.int8 import Limits, kind_of, observed
from inference.preprocess import ModelInput, prepare
from training.cases import LoadedCase
from training.errors import RunError
from training.evaluate import label_dice, label_numbers

Tick = Callable[[], None]

CPU = torch.device("cpu")


def measure(
    bundle: ModelBundle,
    observed_cases: Iterable[LoadedCase],
    test_cases: Iterable[LoadedCase],
    tick: Tick = lambda: None,
) -> FastMode:
    """Limits of the layers from `observed_cases`, agreement and Dice from `test_cases`; whether good or not.

    Raises RunError where there is nothing to measure: a fast bundle, no case, a processor without VNNI, or
    a network without large convolutions.
    """
    if bundle.card.precision is Precision.FAST:
        raise RunError(f"{bundle.folder} is in the fast mode already: name its exact version")
    kind = kind_of(CPU)
    if kind == "cpu":
        raise RunError("this processor multiplies no numbers of 8 bits (VNNI): measure on one that does")
    exact = Model(bundle, CPU)
    limits = _limits(exact, observed_cases, tick)
    if not limits:
        raise RunError(f"{bundle.card.name} has no convolution that could be faster in 8 bits")
    how = bundle.card.preprocessing
    fast = Model(bundle, CPU, quickened(exact.network, limits, how))
    compared = _compared(exact, fast, test_cases, tick)
    return FastMode(device=kind, weights_sha256=bundle.card.weights_sha256, limits=limits, **compared)


def write_fast(bundle: ModelBundle, fast: FastMode, version: str, folder: Path) -> ModelBundle:
    """A copy of a bundle as a new `version` in the fast mode.

    Raises RunError when `fast` did not pass, or `folder` exists, and then writes nothing.
    """
    faults = fast.faults(bundle.card.weights_sha256)
    if faults:
        raise RunError(f"{bundle.card.name} gets no fast mode: {'; '.join(faults)}")
    if folder.exists():
        raise RunError(f"{folder} exists already: name another folder")
    shutil.copytree(bundle.folder, folder)
    new = {"version": version, "precision": Precision.FAST.value, "fast": fast.model_dump(mode="json")}
    _change(folder / CARD, new)
    _change(folder / METADATA, {"version": version})
    return read_bundle(folder)


def _limits(exact: Model, cases: Iterable[LoadedCase], tick: Tick) -> dict[str, Limits]:
    with observed(exact.network) as limits:
        for loaded in cases:
            exact.answers(prepare(loaded.volume, exact.bundle.card.preprocessing))
            tick()
    return {name: (round(low, 5), round(high, 5)) for name, (low, high) in limits.items()}


def _compared(exact: Model, fast: Model, cases: Iterable[LoadedCase], tick: Tick) -> dict[str, Any]:
    """How many cases, agreement and Dice, as `FastMode` names them."""
    same: list[int] = []
    voxels: list[int] = []
    exact_dice: list[float] = []
    fast_dice: list[float] = []
    for loaded in cases:
        image = prepare(loaded.volume, exact.bundle.card.preprocessing)
        answers = [model.answers(image) for model in (exact, fast)]
        one, other = (_labels(found, exact.bundle) for found in answers)
        same.append(int((one == other).sum()))
        voxels.append(one.numel())
        for found, values in zip(answers, (exact_dice, fast_dice), strict=True):
            values.extend(_dice(found, image, loaded, exact.bundle))
        tick()
    if not voxels:
        raise RunError("there is no test case: name an experiment whose test split has some")
    return {
        "n_cases": len(voxels),
        "agreement": sum(same) / sum(voxels),
        "exact_dice": fmean(exact_dice),
        "fast_dice": fmean(fast_dice),
    }


def _labels(answers: torch.Tensor, bundle: ModelBundle) -> torch.Tensor:
    """The label of each voxel; where labels overlap, whether it has each."""
    return answers >= 0.5 if bundle.card.labels_overlap else answers.argmax(dim=0)


def _dice(
    answers: torch.Tensor, image: ModelInput, loaded: LoadedCase, bundle: ModelBundle
) -> Sequence[float]:
    lesions = decide(answers, image, loaded.volume, bundle.card)
    return label_dice(label_numbers(lesions), loaded, bundle.card.labels)


def _change(path: Path, new: dict[str, Any]) -> None:
    """Replace some values of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | new
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
