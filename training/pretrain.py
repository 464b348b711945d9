"""Self-supervised pretraining: the network learns to repair damaged images, for which it needs no labels.

Models Genesis (Zhou et al., MICCAI 2019). The run folder is laid out as that of `fit`; its weights can
begin one (`fit --init`): all but the last layer fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from inference.device import best_device
from training.cases import digest, of_split
from training.config import Experiment
from training.datasets.catalogue import open_dataset
from training.distortion import Distortion, distort
from training.errors import ExperimentError, RunError
from training.run import BOARD, Run, learning_rate, open_run, save
from training.sources import to_source
from training.train import LARGEST_GRADIENT, LOSS_BATCHES, UNCHANGED
from training.unlabelled import digest_of_files, image_files, read_images
from training.windows import Sampler

DAMAGE = 7
"""Sets the numbers that damage a window apart from those that choose it."""


@dataclass(frozen=True)
class Repairing:
    """What the loop tells after each step; `val_loss` only after a validation."""

    step: int
    loss: float
    val_loss: float | None = None


@dataclass(frozen=True)
class Images:
    """What a pretraining learns from and is judged by: no labels."""

    train: Sampler
    val: Sampler
    digest: str


def pretrain(
    experiment: Experiment,
    folder: Path,
    report: Callable[[Repairing], None],
    how: Distortion | None = None,
    more: Sequence[Path] = (),
) -> None:
    """Pretrain the network of `experiment` on the images of all training groups, and of the folders `more`.

    Continues what lies in `folder`. Masks and `train_share` play no part. The weights with the lowest
    loss on the validation images are kept. Raises ExperimentError when the network has no in_channels
    to be given back, and RunError when `folder` was begun otherwise.
    """
    how = how or Distortion()
    experiment = repairing(experiment)
    torch.set_num_threads(experiment.fitting.threads)
    images = gather_images(experiment, more)
    run = open_run(experiment, folder, images.digest)
    settings = how.model_dump(mode="json")
    if run.record.setdefault("pretraining", settings) != settings:
        raise RunError(f"{folder} was begun with another distortion: choose another --out or remove it")
    fitting = experiment.fitting
    began = time.monotonic() - run.record["seconds"]
    losses: list[float] = []
    for step in range(run.step, fitting.steps):
        losses.append(learn(run, images.train, step, experiment, how))
        report(Repairing(step + 1, losses[-1]))
        if (step + 1) % fitting.validate_every and step + 1 < fitting.steps:
            continue
        better = validate(run, images.val, step + 1, losses, experiment, how)
        run.record["seconds"] = time.monotonic() - began
        save(run, folder, better)
        draw(run, folder)
        report(Repairing(step + 1, losses[-1], run.record["history"][-1]["val_loss"]))
        losses.clear()


def repairing(experiment: Experiment) -> Experiment:
    """The experiment with a network that gives images back, and without what needs labels.

    Raises ExperimentError when the network does not name its channels.
    """
    network = experiment.network
    if not {"in_channels", "out_channels"} <= network.keys():
        raise ExperimentError(
            f"network {network.get('_target_')!r} names no in_channels and out_channels: "
            "take one of `dicomtrain networks`"
        )
    changes = {
        "network": network | {"out_channels": network["in_channels"]},
        "data": experiment.data.model_copy(update={"train_share": 1.0}),
        "fitting": experiment.fitting.model_copy(
            update={"lesion_share": 0.0, "keep": "loss", "patience": None}
        ),
        "augmentation": experiment.augmentation.model_copy(update={"vanish": 0.0, "synthetic_lesions": 0.0}),
    }
    return experiment.model_copy(update=changes)  # not checked: it has as many outputs as inputs, not labels


def gather_images(experiment: Experiment, more: Sequence[Path]) -> Images:
    """Read the images of the training and the validation split, and of further folders."""
    source, target, how = experiment.data, experiment.target, experiment.preprocessing
    data = open_dataset(source.format, source.folder, source.options)
    cases = data.cases()
    splits = of_split(cases, "train"), of_split(cases, "val")
    files = [path for folder in more for path in image_files(folder)]
    train, val = ([to_source(data.load(case), how, 0) for case in split] for split in splits)
    train += read_images(files, target.intensity_unit, how)
    seen = digest_of_files(digest(data, [*splits[0], *splits[1]]), files)
    return Images(
        Sampler(train, experiment, experiment.augmentation), Sampler(val, experiment, UNCHANGED), seen
    )


def learn(run: Run, train: Sampler, step: int, experiment: Experiment, how: Distortion) -> float:
    """One optimiser step; returns its loss."""
    fitting = experiment.fitting
    torch.manual_seed(fitting.seed * 1_000_003 + step)  # dropout, so that a resumed run repeats it
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(step, fitting)
    run.network.train()
    loss = repair_loss(run.network, train, step, experiment, how)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), LARGEST_GRADIENT)
    run.optimiser.step()
    if run.average is not None:
        run.average.update_parameters(run.network)
    return float(loss.item())


def repair_loss(
    network: torch.nn.Module, sampler: Sampler, number: int, experiment: Experiment, how: Distortion
) -> torch.Tensor:
    """Mean squared error between the windows of batch `number` and what the network makes of damaged ones.

    With deep supervision it is the mean over the heads, which all have the full size.
    """
    device, fitting = best_device(), experiment.fitting
    whole = sampler.batch(number).image
    damaged = distort(whole, how, np.random.default_rng((fitting.seed, number, DAMAGE)))
    layout = torch.channels_last if whole.ndim == 4 else torch.channels_last_3d
    damaged = damaged.to(device, memory_format=layout)
    with torch.autocast(device.type, torch.bfloat16, enabled=fitting.precision == "bfloat16"):
        repaired = network(damaged)
    truth = whole.to(device)
    if repaired.ndim > truth.ndim:
        truth = truth[:, None]
    loss: torch.Tensor = (repaired.float() - truth).square().mean()
    return loss


def validate(
    run: Run, val: Sampler, step: int, losses: Sequence[float], experiment: Experiment, how: Distortion
) -> bool:
    """Measure the network that is kept on the same windows each time; whether it is the best so far."""
    run.kept.eval()
    with torch.no_grad():
        values = [
            float(repair_loss(run.kept, val, number, experiment, how)) for number in range(LOSS_BATCHES)
        ]
    loss, best = sum(values) / len(values), run.record["best"]
    better = best is None or -loss > best
    run.record["history"].append({"step": step, "loss": sum(losses) / len(losses), "val_loss": loss})
    run.record["step"] = step
    run.record["best"] = -loss if better else best
    return better


def draw(run: Run, folder: Path) -> None:
    """The last entry of the history, for TensorBoard."""
    entry = run.record["history"][-1]
    with SummaryWriter(str(folder / BOARD)) as board:
        for key in ("loss", "val_loss"):
            board.add_scalar(key, entry[key], entry["step"])
