"""What the tests of training share: one thread, and an experiment on a folder of made crops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.crops import write_crops, write_experiment
from training.config import Experiment, read_experiment


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_crops(tmp_path / "crops")
    return read_experiment(write_experiment(tmp_path))
