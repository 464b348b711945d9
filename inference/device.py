"""The device that a worker was given: "auto", "cpu", "cuda:0", ..."""

from __future__ import annotations

import torch

from inference.errors import DeviceMissing


def best_device() -> torch.device:
    """The first GPU, or the CPU when there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_named(name: str) -> torch.device:
    """The device that `name` means; raises DeviceMissing when this machine has not got it."""
    if name == "auto":
        return best_device()
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if name not in there:
        raise DeviceMissing(
            f"this machine has no device {name!r}; worker.devices may name auto, {', '.join(there)}"
        )
    return torch.device(name)


def stay_on(device: torch.device) -> None:
    """Make a card the one of this process.

    Else whatever asks for memory without naming a card (pinned memory does) takes several hundred MB of the
    first one, which belongs to another worker.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
