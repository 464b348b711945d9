"""Two processes on this machine train one network together; one process alone needs no torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.crops import EXPERIMENT, write_crops, write_experiment
from training.config import Experiment, read_experiment
from training.parallel import Processes, alone, started_by_torchrun
from training.run import LAST, learning_rate, new_run, read_record
from training.train import LARGEST_GRADIENT, gather, loss_of, used_cases

SCRIPT = Path(__file__).with_name("fit_in_parallel.py")
REPOSITORY = Path(__file__).parents[2]
FULL = 'threads = 1\nprecision = "float32"\noptimiser = "sgd"\nschedule = "constant"'


def test_without_torchrun_there_is_one_process_that_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with started_by_torchrun() as processes:
        assert processes == alone() == Processes(0, 1)
        assert processes.first
        network = torch.nn.Linear(1, 1)
        assert processes.wrap(network) is network
    record: dict[str, Any] = {"step": 3}
    alone().share(record)
    assert record == {"step": 3}


def test_only_the_process_of_rank_0_is_first() -> None:
    assert [Processes(rank, 3).first for rank in range(3)] == [True, False, False]


def by_hand(experiment: Experiment, count: int) -> dict[str, torch.Tensor]:
    """The weights after all steps, each with the mean gradient over the windows of `count` processes."""
    material = gather(experiment, *used_cases(experiment))
    run = new_run(experiment, "")
    how = experiment.fitting
    for step in range(how.steps):
        run.optimiser.param_groups[0]["lr"] = learning_rate(step, how)
        run.optimiser.zero_grad()
        for rank in range(count):
            loss = loss_of(run.network.train(), material.train.batch(step, rank), experiment)
            (loss / count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), LARGEST_GRADIENT)
        run.optimiser.step()
    return {name: weight.detach() for name, weight in run.network.named_parameters()}


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights_those_of_the_mean_gradient(tmp_path: Path) -> None:
    write_crops(tmp_path / "crops")
    path = write_experiment(tmp_path, EXPERIMENT.replace("threads = 1", FULL))
    out = tmp_path / "run"
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(SCRIPT), str(path), str(out)),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=200,
        check=True,
        capture_output=True,
    )
    first, second = (torch.load(out / f"left_by_{rank}.pt", weights_only=True) for rank in range(2))
    assert first["count"] == second["count"] == 2
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name

    history = [(entry["step"], entry["val_dice"]) for entry in read_record(out)["history"]]
    assert [step for step, _ in history] == [2, 4]
    assert first["seen"] == second["seen"] == history, "both know of the validations of the first"

    written = torch.load(out / LAST, weights_only=True)["network"]
    experiment = read_experiment(path)
    expected, of_one = by_hand(experiment, 2), by_hand(experiment, 1)
    for name, weight in first["weights"].items():
        assert torch.equal(weight, written[name])
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(of_one[name], expected[name], atol=1e-4) for name in expected)
