"""Jobs a second with one to three workers on one PostgreSQL, whose network is a wait, as a GPU would be."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import func, select

from dicomnode.config import load_settings
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import JobRow
from dicomnode.selftest.bundles import write_bundle
from dicomnode.settings.node import Settings
from dicomnode.work.engine import LocalEngine, Segmenter
from dicomnode.work.worker import Worker
from inference.bundle import ModelBundle
from inference.labelmap import LesionMap
from inference.registry import find_bundles
from inference.volume import Volume
from tests.bench.harness import AtLeast, Case, Contender, Reading, Run, Setting, Stage
from tests.bench.needs import Need
from tests.dicomnode.parts import write_config
from tests.phantoms import phantom
from tests.postgres import installed, running_cluster
from tests.system.queued import queue_jobs

WAIT_S = 1.5
"""What a network takes on a GPU, about."""
WORKERS = (1, 2, 3)
SPACING_MM = (16.0, 3.0, 3.0)
LOOK_S = 0.02
SERVER = Need(installed("initdb") is not None, "apt-get install postgresql")
MORE = """
[database]
url = "{url}"
[models]
folder = "models"
"""


class WaitingEngine(LocalEngine):
    """The local engine; it begins when a file is there, and lets each volume wait before it is segmented."""

    def __init__(self, go: Path) -> None:
        super().__init__("cpu")
        self._go = go

    def ready(self, work_waits: Callable[[], bool]) -> bool:
        """Whether all may begin."""
        return self._go.exists()

    def segmenter(self, bundle: ModelBundle, in_use: Collection[str]) -> Segmenter:
        """What waits, and then segments."""
        segment = super().segmenter(bundle, in_use)

        def wait_first(volume: Volume) -> LesionMap:
            time.sleep(WAIT_S)
            return segment(volume)

        return wait_first


def work(config: Path, go: Path) -> None:
    """A worker process; its model is loaded before it may begin."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    settings, engine = load_settings(config), WaitingEngine(go)
    registry = find_bundles(settings.models.folder)
    for bundle in registry.bundles.values():
        engine.load(bundle, registry.bundles)
    Worker(settings, Database(settings.database_url), registry, engine).run(threading.Event())


def cases(setting: Setting) -> Iterator[Case]:
    """The same number of jobs for more and more workers."""
    jobs = setting.choose(2, 6, 18)
    with running_cluster({}) as cluster:
        contenders = []
        counts = setting.choose((2,), WORKERS, WORKERS)
        for count in counts:
            name = f"workers{count}"
            cluster.create_database(name)
            folder = setting.folder / name
            write_bundle(folder / "models" / "threshold")
            config = write_config(folder, MORE.format(url=cluster.url(name)))
            contenders.append(Contender(told(count), _opened(config, count, jobs), (SERVER,)))
        fewest = told(counts[0])
        goals = tuple(AtLeast(told(count), 0.85 * count, fewest) for count in counts[1:])
        yield Case(f"{jobs} jobs", tuple(contenders), fewest, goals, count=jobs, unit="jobs")


def told(count: int) -> str:
    """So many workers in words."""
    return "1 worker" if count == 1 else f"{count} workers"


def _opened(config: Path, workers: int, jobs: int) -> Callable[[], AbstractContextManager[Run]]:
    @contextmanager
    def opened() -> Iterator[Run]:
        settings, go = load_settings(config), config.with_name("go")
        database = Database(settings.database_url)
        migrate(database)
        spawning = multiprocessing.get_context("spawn")
        processes = [spawning.Process(target=work, args=(config, go)) for _ in range(workers)]
        for process in processes:
            process.start()
        try:
            yield partial(_round, settings, database, go, jobs)
        finally:
            for process in processes:
                process.terminate()
                process.join()
            database.engine.dispose()

    return opened


def _round(settings: Settings, database: Database, go: Path, jobs: int) -> Reading:
    """From the moment when the workers may begin until the last job has succeeded."""
    volume = phantom(spacing_mm=SPACING_MM).volume
    queue_jobs(settings, database, volume, jobs, go.with_name("sent"))
    before = _succeeded(database)
    began = time.perf_counter()
    go.touch()
    while _succeeded(database) < before + jobs:
        time.sleep(LOOK_S)
    seconds = time.perf_counter() - began
    go.unlink()
    return Reading(seconds)


def _succeeded(database: Database) -> int:
    with database.snapshot() as session:
        query = select(func.count()).select_from(JobRow).where(JobRow.state == "succeeded")
        return session.scalar(query) or 0


STAGE = Stage(
    "workers",
    "Workers",
    "Tiny jobs wait on one PostgreSQL with durable commits; a worker leases one, reads it, lets it wait "
    f"{WAIT_S:g} s in place of a network on a GPU, segments, encodes, checks and publishes it. The wait lets "
    "two cores show what more GPUs would: with networks on the CPU, more workers than cores bring nothing.",
    cases,
)
