"""A run folder: everything needed to continue a training or to export it.

run.json     experiment, data digest, history, time taken; written at every validation
last.pt      networks, optimiser and the same record at the last validation, for continuing
best.pt      the best weights so far, for exporting
tensorboard/ the curves, for `tensorboard --logdir`
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.device import best_device
from inference.networks.build import build_network
from training.config import Experiment, Fitting
from training.errors import RunError

RUN, LAST, BEST, BOARD = "run.json", "last.pt", "best.pt", "tensorboard"
LEARNT_FROM = ("data", "preprocessing", "network", "augmentation", "fitting", "loss")
"""Sections of the experiment that decide the weights; the others may change before the export."""

State = dict[str, torch.Tensor]
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass
class Run:
    """The state of a training: what a checkpoint holds, and its history."""

    network: torch.nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    record: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record["step"])

    @property
    def kept(self) -> torch.nn.Module:
        """The network that is validated and kept: the moving average where one is made."""
        return self.network if self.average is None else self.average.module


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with, and where they come from."""

    state: State
    origin: str


def new_run(experiment: Experiment, data_digest: str, start: Start | None = None) -> Run:
    """Fresh weights from the experiment's seed, or those of `start` where they fit."""
    how = experiment.fitting
    torch.manual_seed(how.seed)
    network = build_network(experiment.network)
    record: dict[str, Any] = {
        "experiment": plain(experiment),
        "source": {"folder": str(experiment.data.folder), "attribution": experiment.data.attribution},
        "data_digest": data_digest,
        "device": str(best_device()),
        "step": 0,
        "seconds": 0.0,
        "best": None,
        "without_better": 0,
        "history": [],
        "init": None,
    }
    if start is not None:
        record["init"] = {"origin": start.origin, "digest": digest_of(start.state)}
        record["init"] |= take_over(network, start)
    network = to_device(network)
    return Run(network, _average(network, how), optimiser_of(network, how), record)


def take_over(network: torch.nn.Module, start: Start) -> dict[str, int]:
    """Copy every tensor of `start` whose name and shape fit; says how many did and how many did not.

    Raises RunError when nothing fits: then the weights are of another network.
    """
    own = network.state_dict()
    fitting = {k: v.float() for k, v in start.state.items() if k in own and own[k].shape == v.shape}
    if not any(tensor.ndim > 1 for tensor in fitting.values()):
        raise RunError(f"no weight of {start.origin} fits the network: begin with a bundle of the same one")
    network.load_state_dict(own | fitting)
    return {"taken_over": len(fitting), "fresh": len(own) - len(fitting)}


def digest_of(state: State) -> str:
    """SHA-256 of weights, whatever file they came in."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode() + state[name].float().numpy().tobytes())
    return total.hexdigest()


def to_device(network: torch.nn.Module) -> torch.nn.Module:
    """On the best device, channels last: the order in which convolutions are fast."""
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    layout = torch.channels_last_3d if convolutions else torch.channels_last
    placed: torch.nn.Module = network.to(best_device(), memory_format=layout)  # type: ignore[call-overload]
    return placed


def optimiser_of(network: torch.nn.Module, how: Fitting) -> torch.optim.Optimizer:
    """The optimiser that the experiment names."""
    parameters = network.parameters()
    if how.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)
    if how.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=how.learning_rate, momentum=0.99, nesterov=True, weight_decay=how.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)


def _average(network: torch.nn.Module, how: Fitting) -> AveragedModel | None:
    if not how.average_decay:
        return None
    return AveragedModel(network, multi_avg_fn=moving_average(how.average_decay), use_buffers=True)


def moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Follows quickly at first: a decay of (1 + n) / (10 + n) after n steps until it reaches `decay`.

    Otherwise a short run would keep little but its random start. As in TensorFlow's ExponentialMovingAverage.
    """

    def follow(averages: Tensors, current: Tensors, n: Tensor | int) -> None:
        early = (1 + int(n)) / (10 + int(n))
        get_ema_multi_avg_fn(min(decay, early))(averages, current, n)  # type: ignore[no-untyped-call]

    return follow


def open_run(experiment: Experiment, folder: Path, data_digest: str, start: Start | None = None) -> Run:
    """Continue the run in `folder`, or begin one.

    Raises RunError when the folder belongs to another experiment, other data or another start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = new_run(experiment, data_digest, start)
    if not (folder / LAST).exists():
        return run
    state = torch.load(folder / LAST, map_location=best_device(), weights_only=True)
    record: dict[str, Any] = json.loads(state["record"])
    changed = differing(run.record["experiment"], record["experiment"])
    changed += [key for key in ("data_digest", "init") if record[key] != run.record[key]]
    if changed:
        raise RunError(
            f"{folder} was begun with other {', '.join(changed)}: choose another --out or remove it"
        )
    run.network.load_state_dict(state["network"])
    run.optimiser.load_state_dict(state["optimiser"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.record = record
    return run


def save(run: Run, folder: Path, better: bool) -> None:
    """Write the checkpoint, each file whole or not at all.

    A run stopped between two files continues from `last.pt`, which holds the record that belongs to its
    weights. The best weights come first: a run that continues from before them makes them again.
    """
    state = {
        "network": run.network.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "record": json.dumps(run.record),
    }
    if run.average is not None:
        state["average"] = run.average.state_dict()
    files = ({BEST: run.kept.state_dict()} if better else {}) | {LAST: state}
    for name, content in files.items():
        torch.save(content, folder / f"{name}.tmp")
        (folder / f"{name}.tmp").replace(folder / name)
    write_record(run, folder)


def write_record(run: Run, folder: Path) -> None:
    """Write `run.json`, whole or not at all."""
    (folder / f"{RUN}.tmp").write_text(json.dumps(run.record, indent=1), encoding="utf-8")
    (folder / f"{RUN}.tmp").replace(folder / RUN)


def read_record(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder; raises RunError when there is none."""
    try:
        record: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder} holds no run: begin one with `dicomtrain fit ... --out {folder}`"
        ) from error
    return record


def best_state(folder: Path) -> State:
    """The best weights of a run; raises RunError when there are none yet."""
    try:
        state: State = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RunError(f"{folder / BEST} cannot be read: run `dicomtrain fit` up to a validation") from error
    return state


def experiment_of(folder: Path, data: Path | None = None) -> Experiment:
    """The experiment of a run; `data` replaces its data folder.

    Raises RunError when the folder holds no run.
    """
    record = read_record(folder)
    content = record["experiment"]
    source = record["source"] | ({"folder": str(data)} if data else {})
    return Experiment.model_validate(content | {"data": content["data"] | source})


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The sections that decide the weights and differ between two plain experiments."""
    return [section for section in LEARNT_FROM if one[section] != other[section]]


def plain(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON, without the data folder, which differs between machines."""
    return experiment.model_dump(mode="json", exclude={"data": {"folder", "attribution"}})


def learning_rate(step: int, how: Fitting) -> float:
    """A short linear rise, then by the schedule.

    Cosine falls to 1 % of the full rate; polynomial has the power 0.9 (Isensee et al., 2021).
    """
    rise = min(1.0, (step + 1) / min(200, max(1, how.steps // 20)))
    done = step / how.steps
    if how.schedule == "constant":
        return how.learning_rate
    if how.schedule == "polynomial":
        return how.learning_rate * rise * float((1.0 - done) ** 0.9)
    return how.learning_rate * rise * max(0.01, 0.5 * (1.0 + math.cos(math.pi * done)))
