"""Several processes that train one network together, started by torchrun.

    torchrun --nproc-per-node 4 -m training fit EXPERIMENT.toml --out RUN

Each process draws its own windows; gradients are averaged by DistributedDataParallel. The first
process alone validates and writes the run folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from inference.device import best_device


@dataclass(frozen=True)
class Processes:
    """This process's number among all."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network whose gradients are averaged over all processes."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def share(self, record: dict[str, Any]) -> None:
        """Bring the record of the first process to all others."""
        if self.count == 1:
            return
        text = json.dumps(record).encode() if self.first else b""
        length = torch.tensor([len(text)], device=best_device())
        distributed.broadcast(length, src=0)
        content = torch.zeros(int(length), dtype=torch.uint8, device=best_device())
        if self.first:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        distributed.broadcast(content, src=0)
        record.update(json.loads(bytes(content.tolist())))


def alone() -> Processes:
    """One process."""
    return Processes(0, 1)


@contextmanager
def started_by_torchrun() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield alone()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
