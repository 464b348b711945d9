"""What a hyperparameter search may change in an experiment, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import BaseTrial

from training.adjust import with_values
from training.config import Augmentation, Experiment, with_network

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """A number of one section of the experiment; `log` searches orders of magnitude evenly."""

    section: Literal["fitting", "loss"]
    low: float
    high: float
    log: bool = False


RANGES = {
    "learning_rate": Range("fitting", 1e-4, 1e-2, log=True),
    "weight_decay": Range("fitting", 1e-6, 1e-1, log=True),
    "lesion": Range("loss", 1.0, 10.0, log=True),
    "missed": Range("loss", 0.3, 0.8),
    "tversky": Range("loss", 0.25, 4.0, log=True),
}
OPTIMISERS = ("adamw", "adam", "sgd")
STRENGTHS: dict[str, tuple[str, ...]] = {
    "shape_strength": ("rotate_degrees", "scale"),
    "grey_strength": ("shift", "noise", "contrast", "blur_px"),
}
"""One factor for each kind of augmentation: the values of the file times it."""
STRONGEST = 2.0
LIMITS = {"rotate_degrees": 180.0, "scale": 0.45, "contrast": 0.8}
NETWORK = "network"
DIGITS = 4


def propose(trial: BaseTrial, experiment: Experiment, networks: Sequence[str]) -> Experiment:
    """The experiment with the values that `trial` suggests; without `networks` it keeps its own.

    Raises ExperimentError for a network that is unknown or does not suit the window.
    """
    sections: dict[str, Parameters] = {"fitting": {}, "loss": {}, "augmentation": {}}
    for name, within in RANGES.items():
        value = trial.suggest_float(name, within.low, within.high, log=within.log)
        sections[within.section][name] = _rounded(value)
    sections["fitting"]["optimiser"] = trial.suggest_categorical("optimiser", OPTIMISERS)
    for strength, names in STRENGTHS.items():
        factor = trial.suggest_float(strength, 0.0, STRONGEST)
        sections["augmentation"] |= _scaled(experiment.augmentation, names, factor)
    changed = with_values(experiment, sections)
    if not networks:
        return changed
    return with_network(changed, str(trial.suggest_categorical(NETWORK, networks)))


def own_parameters(experiment: Experiment, networks: Sequence[str]) -> Parameters:
    """The values that the file has itself, moved into the ranges, so that a search begins with them."""
    parameters: Parameters = {
        name: min(within.high, max(within.low, getattr(getattr(experiment, within.section), name)))
        for name, within in RANGES.items()
    }
    parameters |= {"optimiser": experiment.fitting.optimiser, **dict.fromkeys(STRENGTHS, 1.0)}
    return parameters | ({NETWORK: networks[0]} if networks else {})


def _scaled(own: Augmentation, names: Sequence[str], factor: float) -> Parameters:
    return {
        name: _rounded(min(LIMITS.get(name, float("inf")), getattr(own, name) * factor)) for name in names
    }


def _rounded(value: float) -> float:
    """As many digits as a person would write."""
    return float(f"{value:.{DIGITS}g}")
