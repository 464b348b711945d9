"""The training loop. A run folder holds everything needed to continue or export it.

run.json     experiment, data digest, history, time taken; written at every validation
last.pt      networks and optimiser at the last validation, for continuing
best.pt      weights of the best validation Dice so far, for exporting
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.bundle import ModelBundle, ModelCard
from inference.engine import Model, best_device
from inference.networks.build import build_network
from training.config import Experiment, Fitting
from training.data import Case, LoadedCase, digest, load_case, of_split, read_manifest
from training.errors import RunError
from training.evaluate import evaluate
from training.losses import segmentation_loss
from training.windows import Source, draw_batch, to_source

RUN, LAST, BEST = "run.json", "last.pt", "best.pt"
UNKNOWN_DIGEST = "0" * 64
WARM_UP_STEPS = 200
LEARNT_FROM = ("data", "preprocessing", "network", "augmentation", "fitting", "loss")
"""Sections of the experiment that decide the weights; the others may change before the export."""
MAY_CHANGE = ("fitting", "loss")
"""Sections that may change between the legs of one run, when that is asked for."""


@dataclass(frozen=True)
class Progress:
    """What the loop tells after each step; `val_dice` only after a validation."""

    step: int
    loss: float
    val_dice: float | None = None
    best_dice: float | None = None


@dataclass
class Run:
    """The state of a run: what a checkpoint holds, and its history."""

    network: torch.nn.Module
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    record: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.record["step"])


def fit(
    experiment: Experiment, folder: Path, report: Callable[[Progress], None], accept_changes: bool = False
) -> None:
    """Train until the experiment's last step, continuing from what lies in `folder`."""
    cases = read_manifest(experiment.data.folder)
    torch.set_num_threads(experiment.fitting.threads)
    run = open_run(experiment, folder, digest(experiment.data.folder, cases), accept_changes)
    train = [to_source(case, experiment.preprocessing) for case in load(experiment, of_split(cases, "train"))]
    val = list(load(experiment, of_split(cases, "val")))
    how = experiment.fitting
    began = time.monotonic() - run.record["seconds"]
    losses: list[float] = []
    for step in range(run.step, how.steps):
        losses.append(do_step(run, train, step, experiment))
        report(Progress(step + 1, losses[-1]))
        if (step + 1) % how.validate_every == 0 or step + 1 == how.steps:
            dice = validate(run, experiment, val)
            better = dice >= run.record["best_dice"]
            run.record["best_dice"] = max(dice, run.record["best_dice"])
            entry = {"step": step + 1, "loss": sum(losses) / len(losses), "val_dice": dice}
            run.record["history"].append(entry)
            run.record |= {"step": step + 1, "seconds": time.monotonic() - began}
            save(run, folder, better)
            report(Progress(step + 1, losses[-1], dice, run.record["best_dice"]))
            losses.clear()


def do_step(run: Run, train: list[Source], step: int, experiment: Experiment) -> float:
    """One optimiser step; returns its loss."""
    how = experiment.fitting
    batch = draw_batch(train, step, how, experiment.preprocessing, experiment.augmentation)
    device = next(run.network.parameters()).device
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(step, how)
    run.network.train()
    logits = run.network(batch.image.to(device))
    loss = segmentation_loss(logits, batch.lesion.to(device), batch.counted.to(device), experiment.loss)
    run.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
    run.optimiser.step()
    run.average.update_parameters(run.network)
    return float(loss.item())


def learning_rate(step: int, how: Fitting) -> float:
    """A short linear rise, then half a cosine down to 1 % of the full rate."""
    rise = min(1.0, (step + 1) / WARM_UP_STEPS)
    fall = 0.5 * (1.0 + math.cos(math.pi * step / how.steps))
    return how.learning_rate * rise * max(0.01, fall)


def validate(run: Run, experiment: Experiment, val: list[LoadedCase]) -> float:
    """Mean Dice of the averaged weights on the validation crops, by the node's own code."""
    model = Model(in_memory_bundle(experiment), best_device(), run.average.module)
    dice = evaluate(model, val).summaries()["dice"].mean
    assert dice is not None  # Dice is defined for every case
    return dice


def in_memory_bundle(experiment: Experiment) -> ModelBundle:
    """The bundle an experiment will become, before there are weights to name."""
    card = ModelCard(**card_content(experiment), weights_sha256=UNKNOWN_DIGEST)
    return ModelBundle(Path(), card, experiment.network, UNKNOWN_DIGEST)


def card_content(experiment: Experiment) -> dict[str, Any]:
    """The part of the model card that the experiment file decides."""
    target = experiment.target.model_dump(exclude={"description", "authors", "copyright", "limits"})
    return target | {
        "preprocessing": experiment.preprocessing.model_dump(),
        "postprocessing": experiment.postprocessing.model_dump(),
    }


def load(experiment: Experiment, cases: list[Case]) -> Iterator[LoadedCase]:
    """Read the voxels of `cases`, one at a time."""
    data = experiment.data
    for case in cases:
        yield load_case(data.folder, case, experiment.target.intensity_unit, data.raters_needed)


def new_run(experiment: Experiment, data_digest: str) -> Run:
    """Fresh weights from the experiment's seed."""
    how = experiment.fitting
    torch.manual_seed(how.seed)
    network = build_network(experiment.network).to(best_device())
    moving_average = get_ema_multi_avg_fn(how.average_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=moving_average, use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    record: dict[str, Any] = {
        "experiment": plain(experiment),
        "source": {"folder": str(experiment.data.folder), "attribution": experiment.data.attribution},
        "data_digest": data_digest,
        "device": str(best_device()),
        "step": 0,
        "seconds": 0.0,
        "best_dice": 0.0,
        "history": [],
        "legs": [leg(0, experiment)],
    }
    return Run(network, average, optimiser, record)


def open_run(experiment: Experiment, folder: Path, data_digest: str, accept_changes: bool = False) -> Run:
    """Continue the run in `folder`, or begin one.

    With `accept_changes` the schedule and the loss may differ from before; the record keeps every
    leg. Raises RunError when the folder belongs to another experiment or other data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = new_run(experiment, data_digest)
    if not (folder / LAST).exists():
        return run
    record = read_record(folder)
    changed = differing(run.record["experiment"], record["experiment"])
    changed += ["data files"] if record["data_digest"] != data_digest else []
    if changed and not (accept_changes and set(changed) <= set(MAY_CHANGE)):
        raise RunError(
            f"{folder} was begun with other {', '.join(changed)}: choose another --out or remove it; "
            f"{' and '.join(MAY_CHANGE)} may change with --accept-changes"
        )
    state = torch.load(folder / LAST, map_location=best_device(), weights_only=True)
    run.network.load_state_dict(state["network"])
    run.average.load_state_dict(state["average"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.record = record
    if changed:
        run.record["legs"].append(leg(record["step"], experiment))
        run.record |= {"experiment": plain(experiment), "best_dice": 0.0}
    return run


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The sections that decide the weights and differ between two plain experiments."""
    return [section for section in LEARNT_FROM if one[section] != other[section]]


def leg(from_step: int, experiment: Experiment) -> dict[str, Any]:
    """A stretch of a run under one schedule and one loss."""
    content = plain(experiment)
    return {"from_step": from_step} | {section: content[section] for section in MAY_CHANGE}


def save(run: Run, folder: Path, better: bool) -> None:
    """Write the checkpoint, each file whole or not at all; the record comes last."""
    state = {
        "network": run.network.state_dict(),
        "average": run.average.state_dict(),
        "optimiser": run.optimiser.state_dict(),
    }
    files = {LAST: state} | ({BEST: run.average.module.state_dict()} if better else {})
    for name, content in files.items():
        torch.save(content, folder / f"{name}.tmp")
        (folder / f"{name}.tmp").replace(folder / name)
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


def experiment_of(folder: Path, data: Path | None = None) -> Experiment:
    """The experiment of a run as it was last continued; `data` replaces its data folder.

    Raises RunError when the folder holds no run.
    """
    record = read_record(folder)
    content = record["experiment"]
    source = record["source"] | ({"folder": str(data)} if data else {})
    return Experiment.model_validate(content | {"data": content["data"] | source})


def plain(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON, without the data folder, which differs between machines."""
    return experiment.model_dump(mode="json", exclude={"data": {"folder", "attribution"}})
