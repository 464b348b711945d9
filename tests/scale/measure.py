"""Measures the costs: a real node with the real lung model gets small and large studies, one at a time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import generate_uid
from sqlalchemy import func, select

from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Stage, Subject
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import AuditRow, Base, ResultRow
from dicomnode.records.timing import timings
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.spool import Spool
from inference.volume import Volume
from tests.bench.machine import commit, machine, today
from tests.dicomnode.parts import arrival, image
from tests.phantoms.chest import chest
from tests.scale.costs import MEGABYTE, Costs, Line
from tests.system.node import Node, archive_on_loopback, forward

MODELS = Path(__file__).parents[2] / "config" / "models"
ONE_CORE = {"OMP_NUM_THREADS": "1"}
"""A worker with one core: its cost does not hang on how many the machine has."""
SMALL_MM, LARGE_MM = (5.0, 2.0, 2.0), (2.5, 1.0, 1.0)
REPEATS = 2
STUDY_TIMEOUT_S = 600.0
WRITES = 100
LARGE_IMAGE_BYTES = 1_000_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One study on its way through the node, and what it left behind."""

    images: int
    voxels: int
    receive_cpu_s: float
    stages: dict[str, float]
    """Seconds of CPU of the worker in each stage."""
    delivery_s: float
    events: int
    result_bytes: float
    rows: int
    database_bytes: int


@contextmanager
def lung_node(folder: Path) -> Iterator[tuple[Node, Archive]]:
    """A node with the shipped lung model, and its PACS."""
    pacs = archive_on_loopback(folder / "pacs")
    routes = {"CT": "ct-lung-nodule"}
    node = Node(folder / "node", MODELS, pacs.ae_title, pacs.port, routes, environment=ONE_CORE).start()
    try:
        yield node, pacs
    finally:
        node.stop()
        pacs.stop()


def write_chest(volume: Volume, folder: Path) -> tuple[str, list[Path]]:
    """A study of its own of the same volume: its UID and its files."""
    identity = SeriesIdentity(modality="CT", study_instance_uid=generate_uid())
    return identity.study_instance_uid, write_series(volume, folder / identity.study_instance_uid, identity)


def measure_costs(folder: Path) -> Costs:
    """Takes a few minutes. Raises AssertionError when a study does not come through."""
    small, large = (chest(spacing).volume for spacing in (SMALL_MM, LARGE_MM))
    with lung_node(folder) as (node, pacs):
        _send(node, pacs, small, folder)  # the first study pays for what is loaded once
        light = [_send(node, pacs, small, folder) for _ in range(REPEATS)]
        heavy = [_send(node, pacs, large, folder) for _ in range(REPEATS)]
    return Costs(
        machine=machine(),
        date=today(),
        commit=commit(),
        receive_cpu_s=statistics.median(one.receive_cpu_s / one.images for one in heavy),
        disk_s=_disk(folder / "disk"),
        record_s=_record(folder / "record"),
        transaction_s=_transaction(folder / "transaction"),
        job_transactions=statistics.median(one.events - one.images for one in light),
        job_cpu_s={stage.value: _line(light, heavy, stage) for stage in Stage},
        delivery_s=statistics.median(one.delivery_s for one in light + heavy),
        result_bytes=_by_images(light, heavy, "result_bytes"),
        rows=_by_images(light, heavy, "rows"),
        database_bytes=_by_images(light, heavy, "database_bytes"),
    )


def _send(node: Node, pacs: Archive, volume: Volume, folder: Path) -> Measured:
    study, paths = write_chest(volume, folder / "sent")
    rows, size = _rows(node.database), _file_bytes(node)
    receiver, worker = node.process_of("receive"), node.process_of("work")
    received_s, worked_s = cpu_seconds(receiver), cpu_seconds(worker)
    forward(node, pacs, paths)
    received_s = cpu_seconds(receiver) - received_s
    (job,) = node.wait_until_delivered(study, timeout_s=STUDY_TIMEOUT_S)
    worked_s = cpu_seconds(worker) - worked_s
    with node.database.snapshot() as session:
        events = session.scalars(
            select(AuditRow).where(AuditRow.study_instance_uid == study).order_by(AuditRow.id)
        ).all()
        results = session.scalars(select(ResultRow.path).where(ResultRow.job_id == job.id)).all()
    timing = timings(events)[-1]
    steps = timing.steps()
    share = min(1.0, worked_s / steps["the whole job"])  # of a core that the worker had on a busy machine
    return Measured(
        images=len(paths),
        voxels=int(volume.voxels.size),
        receive_cpu_s=received_s,
        stages={stage: seconds * share for stage, seconds in timing.stages.items()},
        delivery_s=steps["job to last delivery"],
        events=len(events),
        result_bytes=float(sum(Path(path).stat().st_size for path in results)),
        rows=_rows(node.database) - rows,
        database_bytes=_file_bytes(node) - size,
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _rows(database: Database) -> int:
    with database.snapshot() as session:
        counts = [
            session.scalar(select(func.count()).select_from(table)) for table in Base.metadata.tables.values()
        ]
    return sum(count or 0 for count in counts)


def _file_bytes(node: Node) -> int:
    """Pages in use, which are exact; the file grows in steps, and the log is apart."""
    with node.database.engine.connect() as connection:
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
            for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


def _line(light: list[Measured], heavy: list[Measured], stage: Stage) -> Line:
    def point(found: list[Measured]) -> tuple[float, float]:
        return found[0].voxels / 1e6, statistics.median(one.stages[stage.value] for one in found)

    return Line.through(point(light), point(heavy))


def _by_images(light: list[Measured], heavy: list[Measured], name: str) -> Line:
    def point(found: list[Measured]) -> tuple[float, float]:
        return found[0].images, statistics.mean(getattr(one, name) for one in found)

    return Line.through(point(light), point(heavy))


def _disk(folder: Path) -> Line:
    """As the receiver writes: one file, synced, and its folders."""
    spool = Spool(folder)
    spool.prepare()

    def write(size_bytes: int) -> float:
        content, spent = os.urandom(size_bytes), []
        for number in range(WRITES):
            path = spool.instance_path("1.2", f"1.2.{size_bytes}", f"1.2.{number}", "0" * 16)
            started = time.perf_counter()
            spool.write(path, content)
            spent.append(time.perf_counter() - started)
        return _quick(spent)

    sizes = (1_000, LARGE_IMAGE_BYTES)
    return Line.through(*((size / MEGABYTE, write(size)) for size in sizes))


def _record(folder: Path) -> float:
    """What taking a tiny image costs beyond writing it."""
    database, spool = _empty(folder), Spool(folder / "spool")
    spool.prepare()
    intake = Intake(spool, database, Audit("receiver"))
    arrivals = [arrival(image()) for _ in range(WRITES)]
    spent = []
    for one in arrivals:
        started = time.perf_counter()
        intake.take(one)
        spent.append(time.perf_counter() - started)
    intake.close()
    return max(0.0, _quick(spent) - _disk(folder / "spool").fixed)


def _transaction(folder: Path) -> float:
    database, spent = _empty(folder), []
    for _ in range(WRITES):
        started = time.perf_counter()
        with database.transaction() as session:
            Audit("worker").record(session, Event.STAGE_FINISHED, Subject())
        spent.append(time.perf_counter() - started)
    return _quick(spent)


def _quick(spent_s: list[float]) -> float:
    """The shortest: on a busy machine all others tell of whoever else was at work."""
    return min(spent_s)


def _empty(folder: Path) -> Database:
    database = Database(f"sqlite:///{folder / 'node.sqlite'}")
    migrate(database)
    return database
