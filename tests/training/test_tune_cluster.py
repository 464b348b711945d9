"""A search whose trials are tasks of a Ray cluster. Whether it finds good values is Optuna's matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.trial import TrialState
from ray.cluster_utils import Cluster as Machines

from tests.training.discs import write_discs
from training.errors import RunError
from training.tune import Search, open_study
from training.tune_cluster import Cluster, run_trials_on_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    head = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
    found = Machines(initialize_head=True, head_node_args=head)
    for _ in range(2):
        found.add_node(num_cpus=1, object_store_memory=80_000_000)
    found.wait_for_nodes()
    yield found
    ray.shutdown()
    found.shutdown()  # type: ignore[no-untyped-call]


def test_trials_run_at_once_and_a_lost_machine_costs_no_trial(machines: Machines, tmp_path: Path) -> None:
    search, out = Search(write_discs(tmp_path), unpruned=10), tmp_path / "out"
    study = open_study(search, out)
    most, lost = 0, False

    def watch(*_: Any) -> None:
        nonlocal most, lost
        running = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
        most = max(most, len(running))
        if len(running) == 2 and not lost:
            lost = True
            machine = machines.list_all_nodes()[1]  # type: ignore[no-untyped-call]
            machines.remove_node(machine, allow_graceful=False)
            machines.add_node(num_cpus=1, object_store_memory=80_000_000)

    cluster = Cluster(machines.address, at_once=2)
    run_trials_on_ray(study, search, out, 3, watch, cluster)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert (len(complete), most, lost) == (3, 2, True)
    assert len({str(trial.params) for trial in complete}) == 3
    assert all(trial.value in trial.intermediate_values.values() for trial in complete)
    run_trials_on_ray(study, search, out, 3, watch, cluster)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 3, "nothing was missing"


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    search, out = Search(write_discs(tmp_path)), tmp_path / "out"
    ray.shutdown()
    with pytest.raises(RunError, match="no Ray cluster at 'nowhere'"):
        run_trials_on_ray(open_study(search, out), search, out, 1, lambda *_: None, Cluster("nowhere", 1))
