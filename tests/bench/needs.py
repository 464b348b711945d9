"""What a contender needs that may not be installed, and how to install it."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.real_parts import find_program

if TYPE_CHECKING:
    import torch  # not every stage pays for it


@dataclass(frozen=True)
class Need:
    """Something that is there or not; `remedy` says how to get it."""

    present: bool
    remedy: str


def program(name: str, package: str) -> Need:
    """A program of a Debian package."""
    return Need(find_program(name) is not None, f"apt-get install {package}")


def pip_program(name: str, distribution: str) -> Need:
    """A program that a Python package brings."""
    return Need(find_program(name) is not None, f"pip install {distribution}")


def module(name: str, distribution: str | None = None) -> Need:
    """A Python package of the extra `bench`, or one that must be installed by hand."""
    remedy = f"pip install {distribution}" if distribution else "pip install '.[bench]'"
    return Need(importlib.util.find_spec(name) is not None, remedy)


def gpu() -> Need:
    """A CUDA device that torch can use."""
    import torch  # not every stage pays for it

    return Need(torch.cuda.is_available(), "a machine with an NVIDIA GPU")


def runs_on(kinds: Collection[str], device: torch.device) -> Need:
    """That `device` is one of these kinds, as the fast mode tells them apart."""
    from inference.networks.int8 import kind_of  # loads torch

    return Need(kind_of(device) in kinds, f"--device cpu, on a processor that is {' or '.join(kinds)}")
