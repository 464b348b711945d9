"""Measures what the benchmark does not tell, on a real node that gets small and large studies of a chest."""

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

from dicomnode.receive.arrival import identify
from dicomnode.receive.entries import Entry
from dicomnode.receive.recorder import Recorder
from dicomnode.records.audit import Audit, Stage
from dicomnode.records.db import Database, migrate, utc_now
from dicomnode.records.tables import AuditRow, Base, ResultRow
from dicomnode.records.timing import timings
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.spool import Spool
from inference.volume import Volume
from tests.bench.machine import commit, machine, today
from tests.dicomnode.parts import arrival, image
from tests.phantoms.chest import chest
from tests.scale.costs import Line, Measured
from tests.system.node import Node, archive_on_loopback, forward

MODELS = Path(__file__).parents[2] / "config" / "models"
ONE_CORE = {"OMP_NUM_THREADS": "1"}
"""A worker with one core: its cost does not hang on how many the machine has."""
SMALL_MM, LARGE_MM = (5.0, 2.0, 2.0), (2.5, 1.0, 1.0)
REPEATS = 2
STUDY_TIMEOUT_S = 600.0
BATCH, BATCHES = 64, 8
"""Images of a transaction, as a busy receiver's recorder has them."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Trace:
    """What one study left behind on its way through the node."""

    images: int
    voxels: int
    segment_s: float
    """Seconds of CPU of the worker."""
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


def measure(folder: Path) -> Measured:
    """Takes a few minutes. Raises AssertionError when a study does not come through."""
    small, large = (chest(spacing).volume for spacing in (SMALL_MM, LARGE_MM))
    with lung_node(folder) as (node, pacs):
        _send(node, pacs, small, folder)  # the first study pays for what is loaded once
        light = [_send(node, pacs, small, folder) for _ in range(REPEATS)]
        heavy = [_send(node, pacs, large, folder) for _ in range(REPEATS)]
    return Measured(
        machine=machine(),
        date=today(),
        commit=commit(),
        record_s=_record(folder / "record"),
        job_transactions=statistics.median(one.events - one.images for one in light),
        segment_s=Line.through(*(_point(found, "voxels", "segment_s", 1e6) for found in (light, heavy))),
        result_bytes=_by_images(light, heavy, "result_bytes"),
        rows=_by_images(light, heavy, "rows"),
        database_bytes=_by_images(light, heavy, "database_bytes"),
    )


def _send(node: Node, pacs: Archive, volume: Volume, folder: Path) -> Trace:
    study, paths = write_chest(volume, folder / "sent")
    rows, size = _rows(node.database), _file_bytes(node)
    worker = node.process_of("work")
    worked_s = _cpu_seconds(worker)
    forward(node, pacs, paths)
    (job,) = node.wait_until_delivered(study, timeout_s=STUDY_TIMEOUT_S)
    worked_s = _cpu_seconds(worker) - worked_s
    with node.database.snapshot() as session:
        events = session.scalars(
            select(AuditRow).where(AuditRow.study_instance_uid == study).order_by(AuditRow.id)
        ).all()
        results = session.scalars(select(ResultRow.path).where(ResultRow.job_id == job.id)).all()
    timing = timings(events)[-1]
    share = min(1.0, worked_s / timing.steps()["the whole job"])  # of a core, on a busy machine
    return Trace(
        images=len(paths),
        voxels=int(volume.voxels.size),
        segment_s=timing.stages[Stage.SEGMENT] * share,
        events=len(events),
        result_bytes=float(sum(Path(path).stat().st_size for path in results)),
        rows=_rows(node.database) - rows,
        database_bytes=_file_bytes(node) - size,
    )


def _cpu_seconds(pid: int) -> float:
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


def _by_images(light: list[Trace], heavy: list[Trace], name: str) -> Line:
    return Line.through(*(_point(found, "images", name) for found in (light, heavy)))


def _point(found: list[Trace], units: str, name: str, of: float = 1.0) -> tuple[float, float]:
    """How many units (in so many at once), and what they cost."""
    return getattr(found[0], units) / of, statistics.mean(getattr(one, name) for one in found)


def _record(folder: Path) -> float:
    """For one image: the shortest of several, since all others tell of whoever else was at work."""
    database = Database(f"sqlite:///{folder / 'node.sqlite'}")
    migrate(database)
    spool = Spool(folder / "spool")
    spool.prepare()
    recorder, spent_s = Recorder(spool, database, Audit("receiver")), []
    for _ in range(BATCHES):
        arrivals = [arrival(image()) for _ in range(BATCH)]
        entries = [Entry(one, identify(one), utc_now()) for one in arrivals]
        started = time.perf_counter()
        recorder.record(entries)
        spent_s.append(time.perf_counter() - started)
    return min(spent_s) / BATCH
