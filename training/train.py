"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from inference.bundle import ModelBundle, ModelCard, Preprocessing
from inference.device import best_device
from inference.engine import Model
from inference.errors import NotFinite
from inference.preprocess import stack_context
from training.cases import Case, DataSet, LoadedCase, Truth, digest, of_split
from training.config import UNKNOWN_DIGEST, Augmentation, Experiment, card_content, untuned
from training.datasets.catalogue import open_dataset
from training.errors import RunError
from training.evaluate import mean_dice, model_finder
from training.losses import segmentation_loss
from training.parallel import Processes, alone
from training.run import BOARD, Run, Start, learning_rate, open_run, save, write_record
from training.sources import Image, Source, to_source
from training.synthetic import collect
from training.windows import Batch, Sampler

LARGEST_GRADIENT = 5.0
LOSS_BATCHES = 6
"""Batches of unchanged windows over which the validation loss is the mean."""
DICE_DIGITS = 2
"""Smaller differences of the validation Dice are noise."""
UNCHANGED = Augmentation(rotate_degrees=0.0, scale=0.0, shift=0.0, noise=0.0)


@dataclass(frozen=True)
class Progress:
    """What the loop tells after each step; `val_dice` and `best` only after a validation."""

    step: int
    loss: float
    val_dice: float | None = None
    best: float | None = None


@dataclass(frozen=True)
class Material:
    """What a run learns from and is judged by."""

    train: Sampler
    val: Sampler
    val_cases: Sequence[LoadedCase]


def fit(
    experiment: Experiment,
    folder: Path,
    report: Callable[[Progress], None],
    start: Start | None = None,
    processes: Processes | None = None,
) -> None:
    """Train to the experiment's last step, or until it gets no better; continues what lies in `folder`.

    Raises DataError for unusable data, RunError when `folder` holds another run or the loss is not finite.
    """
    processes = processes or alone()
    torch.set_num_threads(experiment.fitting.threads)
    data, cases = used_cases(experiment)
    run = open_run(experiment, folder, digest(data, cases), start)
    if run.step and processes.first:
        write_record(run, folder)  # it lags behind when the run was stopped while saving
    material = gather(experiment, data, cases)
    network = processes.wrap(run.network)
    how = experiment.fitting
    began = time.monotonic() - run.record["seconds"]
    losses: list[float] = []
    for step in range(run.step, how.steps):
        if finished(run, experiment):
            break
        losses.append(do_step(run, network, material.train.batch(step, processes.rank), step, experiment))
        report(Progress(step + 1, losses[-1]))
        if (step + 1) % how.validate_every and step + 1 < how.steps:
            continue
        if processes.first:
            better = validate(run, experiment, material, step + 1, losses)
            run.record["seconds"] = time.monotonic() - began
            save(run, folder, better)
            draw(run, folder)
        processes.share(run.record)
        last = run.record["history"][-1]
        report(Progress(step + 1, losses[-1], last["val_dice"], run.record["best"]))
        losses.clear()


def finished(run: Run, experiment: Experiment) -> bool:
    """Whether there was no better validation for as long as the experiment has patience."""
    patience = experiment.fitting.patience
    return patience is not None and run.record["without_better"] >= patience


def used_cases(experiment: Experiment) -> tuple[DataSet, list[Case]]:
    """The data set of an experiment, and its cases less the training groups that it leaves out."""
    source = experiment.data
    data = open_dataset(source.format, source.folder, source.options)
    cases = data.cases()
    groups = sorted({case.group for case in of_split(cases, "train")})
    np.random.default_rng(experiment.fitting.seed).shuffle(groups)
    kept = set(groups[: max(1, round(source.train_share * len(groups)))])
    return data, [case for case in cases if case.split != "train" or case.group in kept]


def gather(experiment: Experiment, data: DataSet, cases: list[Case]) -> Material:
    """Read the training and validation cases once."""
    labels = len(experiment.target.labels)
    how = experiment.preprocessing
    train = [to_source(data.load(case), how, labels) for case in of_split(cases, "train")]
    val_cases = [data.load(case) for case in of_split(cases, "val")]
    val: list[Source] = [to_source(loaded, how, labels) for loaded in val_cases]
    change = experiment.augmentation
    donors = collect(views(train, how)) if change.synthetic_lesions else ()
    return Material(
        Sampler(train, experiment, change, donors), Sampler(val, experiment, UNCHANGED), val_cases
    )


def views(sources: Sequence[Source], how: Preprocessing) -> Iterator[tuple[Image, Truth]]:
    """Image (channel, ...) and truth of everything labelled, as windows are cut from it."""
    for source in sources:
        if how.spatial_dims == 3:
            yield source.image[None], source.truth
            continue
        stacked = stack_context(torch.from_numpy(source.image), how.context_slices).numpy()
        for at in np.flatnonzero(source.truth.any(axis=(1, 2))):
            yield stacked[at], source.truth[at]


def do_step(run: Run, network: torch.nn.Module, batch: Batch, step: int, experiment: Experiment) -> float:
    """One optimiser step; returns its loss, or raises RunError where it is not finite."""
    how = experiment.fitting
    torch.manual_seed(how.seed * 1_000_003 + step)  # dropout, so that a resumed run repeats it
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(step, how)
    network.train()
    loss = loss_of(network, batch, experiment)
    if not loss.isfinite():
        raise RunError(f"the loss is {loss.item()} at step {step + 1}: lower fitting.learning_rate")
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), LARGEST_GRADIENT)
    run.optimiser.step()
    if run.average is not None:
        run.average.update_parameters(run.network)
    return float(loss.item())


def loss_of(network: torch.nn.Module, batch: Batch, experiment: Experiment) -> torch.Tensor:
    """The loss of one batch; the network runs in the experiment's precision."""
    device = best_device()
    layout = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
    image = batch.image.to(device, memory_format=layout)
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.fitting.precision == "bfloat16"):
        logits = network(image)
    return segmentation_loss(
        logits.float(), batch.truth.to(device), batch.counted.to(device), experiment.loss
    )


def validate(
    run: Run, experiment: Experiment, material: Material, step: int, losses: Sequence[float]
) -> bool:
    """Measure the network that is kept, write it into the history; whether it is the best so far.

    Of two with about the same Dice the one with the lower loss is better: early on, hardly a probability
    reaches the threshold, and the loss alone tells how far the network has come.
    """
    run.kept.eval()
    model = Model(in_memory_bundle(untuned(experiment)), best_device(), run.kept)
    try:
        dice = mean_dice(model_finder(model), material.val_cases, experiment.target.labels)
    except NotFinite:
        dice = 0.0  # the loss of the next step tells of it, and ends the run
    loss = validation_loss(run.kept, experiment, material.val)
    entry = {"step": step, "loss": sum(losses) / len(losses), "val_loss": loss, "val_dice": dice}
    keep = experiment.fitting.keep
    better = all(merit(entry, keep) > merit(earlier, keep) for earlier in run.record["history"])
    run.record["history"].append(entry)
    run.record["step"] = step
    if better:
        run.record["best"] = dice if keep == "dice" else -loss
    run.record["without_better"] = 0 if better else run.record["without_better"] + 1
    return better


def merit(entry: Mapping[str, float], keep: Literal["dice", "loss"]) -> tuple[float, ...]:
    """What ranks the validations of a run: higher is better."""
    if keep == "loss":
        return (-entry["val_loss"],)
    return round(entry["val_dice"], DICE_DIGITS), -entry["val_loss"]


@torch.no_grad()
def validation_loss(network: torch.nn.Module, experiment: Experiment, val: Sampler) -> float:
    """The mean loss over the same unchanged windows each time."""
    losses = [float(loss_of(network, val.batch(number), experiment)) for number in range(LOSS_BATCHES)]
    return sum(losses) / len(losses)


def draw(run: Run, folder: Path) -> None:
    """The last entry of the history, for TensorBoard."""
    entry = run.record["history"][-1]
    with SummaryWriter(str(folder / BOARD)) as board:
        for key in ("loss", "val_loss", "val_dice"):
            board.add_scalar(key, entry[key], entry["step"])


def in_memory_bundle(experiment: Experiment) -> ModelBundle:
    """The bundle an experiment will become, before there are weights to name."""
    card = ModelCard(**card_content(experiment), weights_sha256=UNKNOWN_DIGEST)
    return ModelBundle(Path(), card, experiment.network, UNKNOWN_DIGEST)


def load(data: DataSet, cases: Sequence[Case]) -> Iterator[LoadedCase]:
    """Read the voxels of `cases`, one at a time."""
    return map(data.load, cases)
