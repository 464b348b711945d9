"""Fits EXPERIMENT into OUT under torchrun; every process leaves the weights that it ends with in OUT."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from training.config import read_experiment
from training.parallel import Processes, started_by_torchrun
from training.train import Progress, fit


class Watched(Processes):
    """Remembers the network that it wraps."""

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        networks.append(network)
        return super().wrap(network)


def report(progress: Progress) -> None:
    if progress.val_dice is not None:
        seen.append((progress.step, progress.val_dice))


networks: list[torch.nn.Module] = []
seen: list[tuple[int, float]] = []
experiment_file, out = map(Path, sys.argv[1:])
with started_by_torchrun() as processes:
    fit(read_experiment(experiment_file), out, report, None, Watched(processes.rank, processes.count))
    weights = {name: weight.detach() for name, weight in networks[0].named_parameters()}
    left = {"weights": weights, "count": processes.count, "seen": seen}
    torch.save(left, out / f"left_by_{processes.rank}.pt")
