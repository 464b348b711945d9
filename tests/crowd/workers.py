"""Three workers on either engine, and what can be killed of them."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.node import Node, children_of

COUNT = 3
ACTOR = b"ray::SegmentationActor"
STORE_BYTES = 80_000_000
POOL = """
[inference]
engine = "ray"
address = "{address}"
[[inference.pool]]
name = "cpus"
actors = 3
gpus = 0.0
"""


@dataclass(frozen=True)
class Workers:
    """How the node is told of them, and how to kill one of each kind of process; False when none is there."""

    settings_text: str
    kills: Mapping[str, Callable[[Node, random.Random], bool]]


@contextmanager
def local() -> Iterator[Workers]:
    """Processes that run the networks themselves."""
    yield Workers("", {"worker": _kill_worker})


@contextmanager
def on_ray() -> Iterator[Workers]:
    """Processes with an actor each, on a head that computes nothing and three machines with one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(COUNT):
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()

    def kill_machine(_: Node, chance: random.Random) -> bool:
        machines = list(cluster.worker_nodes)
        cluster.remove_node(chance.choice(machines), allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        return True

    kills = {"worker": _kill_worker, "actor": _kill_actor, "machine": kill_machine}
    try:
        yield Workers(POOL.format(address=cluster.address), kills)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


ENGINES: dict[str, Callable[[], AbstractContextManager[Workers]]] = {"local": local, "ray": on_ray}


def _kill_worker(node: Node, chance: random.Random) -> bool:
    return _kill_one(node.processes_of("work"), chance)


def _kill_actor(_: Node, chance: random.Random) -> bool:
    return _kill_one([pid for pid in _descendants(os.getpid()) if _is_actor(pid)], chance)


def _kill_one(pids: list[int], chance: random.Random) -> bool:
    if not pids:
        return False
    try:
        os.kill(chance.choice(pids), signal.SIGKILL)
    except ProcessLookupError:  # it has ended by itself
        return False
    return True


def _descendants(pid: int) -> Iterator[int]:
    for child in children_of(pid):
        yield child
        yield from _descendants(child)


def _is_actor(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(ACTOR)
    except FileNotFoundError:
        return False
