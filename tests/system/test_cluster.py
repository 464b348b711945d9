"""Networks in the actors of a real Ray cluster: four raylets on this host, one of them the head.

Not covered: GPUs, an autoscaler, machines that are really apart.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray._private.node import Node
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster
from sqlalchemy import select

from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import JobRow, ResultRow
from dicomnode.selftest.bundles import write_bundle
from dicomnode.settings.inference import InferenceSettings, PoolSettings
from dicomnode.settings.node import Settings
from dicomnode.work.cluster import RayEngine, room_for
from dicomnode.work.engine import EngineLost, LocalEngine
from dicomnode.work.losses import recover_lost_leases
from inference.bundle import ModelBundle
from inference.errors import UnsuitableVolume
from inference.labelmap import LesionMap
from inference.registry import Registry, find_bundles
from inference.volume import Volume
from tests.dicomnode.parts import events, settings_in
from tests.phantoms import phantom
from tests.system.queued import queue_jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STUDY_COUNT = 6
STORE_BYTES = 80_000_000
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, which programs join, and three machines with one each."""
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(3):
        found.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    found.wait_for_nodes()
    yield found
    ray.shutdown()
    found.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    write_bundle(tmp_path / "models" / "threshold")
    return find_bundles(tmp_path / "models")


@pytest.fixture
def bundle(registry: Registry) -> ModelBundle:
    (found,) = registry.bundles.values()
    return found


def inference(cluster: Cluster, **pool: Any) -> InferenceSettings:
    return InferenceSettings(
        engine="ray",
        address=cluster.address,
        pool=(PoolSettings.model_validate({"name": "cpus", "gpus": 0.0} | pool),),
    )


def started(settings: InferenceSettings, registry: Registry, number: int = 0) -> RayEngine:
    engine = RayEngine(settings, settings.pool[0], number, registry)
    wait_until(lambda: engine.ready(lambda: True), "the actor did not start")
    return engine


def wait_until(holds: Any, otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


@pytest.fixture
def volume() -> Volume:
    return phantom(spacing_mm=(8.0, 2.0, 2.0)).volume


def same(one: LesionMap, other: LesionMap) -> bool:
    return bool(np.array_equal(one.values, other.values)) and one.lesions == other.lesions


def test_an_actor_gives_the_same_as_the_worker_itself_and_its_loss_costs_one_job(
    cluster: Cluster, registry: Registry, bundle: ModelBundle, volume: Volume
) -> None:
    settings = inference(cluster)
    assert room_for(settings) == {"cpus": 3}
    engine = started(settings, registry)
    expected = LocalEngine("cpu").segmenter(bundle, {bundle.digest})(volume)
    segment = engine.segmenter(bundle, {bundle.digest})
    assert expected.lesions and same(segment(volume), expected)
    assert same(segment(volume), expected), "the model is there now"

    flat = Volume(volume.voxels, volume.affine_lps, "arbitrary")
    with pytest.raises(UnsuitableVolume, match="works on HU"):
        segment(flat)

    ray.kill(engine._actor)
    with pytest.raises(EngineLost, match="pool 'cpus'"):
        wait_until(lambda: not segment(volume), "the actor outlived its end")
    wait_until(lambda: engine.ready(lambda: True), "no new actor")
    assert same(engine.segmenter(bundle, {bundle.digest})(volume), expected)
    engine._drop("the test is over")


def test_actors_beyond_the_resident_ones_come_with_work_and_go_without(
    cluster: Cluster, registry: Registry
) -> None:
    settings = inference(cluster, actors=2, resident_actors=1, idle_s=0.5)
    engine = RayEngine(settings, settings.pool[0], 1, registry)
    assert not engine.ready(lambda: False)
    assert engine._actor is None, "nothing waits, nothing is asked for"
    wait_until(lambda: engine.ready(lambda: True), "work did not start it")
    wait_until(lambda: not engine.ready(lambda: False), "it did not go")
    assert engine._actor is None


def test_two_actors_share_a_gpu_and_a_third_waits_until_the_cluster_has_room(
    cluster: Cluster, registry: Registry
) -> None:
    settings = inference(cluster, actors=3, gpus=0.5)
    assert room_for(settings) == {"cpus": 0}
    engines = [RayEngine(settings, settings.pool[0], number, registry) for number in range(3)]
    assert not any(engine.ready(lambda: True) for engine in engines)
    wait_until(lambda: demand(cluster) == {"CPU": 3.0, "GPU": 1.5}, "the autoscaler hears of no demand")
    grown = cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=STORE_BYTES)
    assert room_for(settings) == {"cpus": 2}
    wait_until(lambda: sum(engine.ready(lambda: True) for engine in engines) == 2, "room came, no actors did")
    wait_until(lambda: demand(cluster) == {"CPU": 1.0, "GPU": 0.5}, "one still waits")
    for engine in engines:
        engine._drop("the test is over")
    cluster.remove_node(grown)
    wait_until(lambda: room_for(settings) == {"cpus": 0}, "the machine still counts")


def demand(cluster: Cluster) -> dict[str, float]:
    """What an autoscaler is told that actors wait for, added up."""
    wanted: Counter[str] = Counter()
    for kind in get_cluster_status(cluster.address).resource_demands.ray_task_actor_demand:
        for request in kind.bundles_by_count:
            wanted.update({name: amount * request.count for name, amount in request.bundle.items()})
    return dict(wanted)


def test_models_go_to_the_pool_of_their_modality_and_no_pool_exceeds_the_memory_of_a_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    for modality, unit in (("CT", "HU"), ("MR", "arbitrary")):
        name = f"threshold-{modality.lower()}"
        write_bundle(tmp_path / modality, name=name, modality=modality, intensity_unit=unit)
    registry = find_bundles(tmp_path)
    small = PoolSettings(name="small", modalities=("MR",), gpus=0.0)
    large = PoolSettings(name="large", gpus=0.0, memory_gb=1e6)
    settings = InferenceSettings(engine="ray", address=cluster.address, pool=(small, large))
    shares = [RayEngine(settings, pool, 0, registry).share() for pool in settings.pool]
    assert [share.has("threshold-mr") for share in shares] == [True, False]
    assert [share.has("threshold-ct") for share in shares] == [False, True]
    assert room_for(settings) == {"small": 3, "large": 0}


def with_jobs(folder: Path, cluster: Cluster) -> tuple[Settings, Database]:
    """A node whose studies have arrived and are routed: one job each."""
    more = f"""
[worker]
lease_s = 4.0
retry_delay_s = 0.1
maximum_attempts = 10
maximum_losses = 10
[models]
folder = "models"
[inference]
engine = "ray"
address = "{cluster.address}"
[[inference.pool]]
name = "cpus"
actors = 3
gpus = 0.0
"""
    settings = settings_in(folder, more)
    database = Database(settings.database_url)
    migrate(database)
    volume = phantom(spacing_mm=(8.0, 2.0, 2.0)).volume
    queue_jobs(settings, database, volume, STUDY_COUNT, folder / "sent")
    return settings, database


def test_machines_and_workers_die_and_every_job_ends_once(
    cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    settings, database = with_jobs(tmp_path, cluster)
    pool = [work(tmp_path, number) for number in range(3)]
    try:
        wait_until(lambda: count(database, "succeeded") >= 1, "nothing was done")
        cluster.remove_node(a_machine_in_use(cluster), allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        pool[0].send_signal(signal.SIGKILL)
        pool[0].wait()
        pool[0] = work(tmp_path, 0)

        def ended() -> bool:
            running = count(database, "running")
            assert running <= len(pool) + 1, "no job waits behind an actor; one is the killed worker's"
            recover_lost_leases(database, Audit("housekeeping"), settings.worker)
            return count(database, "succeeded") + count(database, "failed") == STUDY_COUNT

        wait_until(ended, "not all jobs have ended")
    finally:
        for process in pool:
            process.terminate()
        for process in pool:
            process.wait(180)
    assert count(database, "succeeded") == STUDY_COUNT
    with database.snapshot() as session:
        kinds = session.execute(select(ResultRow.job_id, ResultRow.kind)).all()
    assert len(kinds) == len(set(kinds)) == 3 * STUDY_COUNT
    workers = {detail["worker"].split(" pid ")[0] for _, detail in events(database, "job_succeeded")}
    assert workers == {"ray cpus"}
    database.engine.dispose()


def a_machine_in_use(cluster: Cluster) -> Node:
    """One of whose CPUs an actor has one."""
    found: list[Node] = []

    def is_found() -> bool:
        nodes = get_cluster_status(cluster.address).active_nodes
        busy = {node.node_id for node in nodes if node.used_resources().get("CPU")}
        found.extend(machine for machine in cluster.worker_nodes if machine.node_id in busy)
        return bool(found)

    wait_until(is_found, "no actor has a machine")
    return found[0]


def work(folder: Path, number: int) -> subprocess.Popen[bytes]:
    arguments = ["work", "--pool", "cpus", "--number", str(number), "--config", str(folder / "node.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "dicomnode", *arguments], env=environment)


def count(database: Database, state: str) -> int:
    with database.snapshot() as session:
        return len(session.scalars(select(JobRow.id).where(JobRow.state == state)).all())
