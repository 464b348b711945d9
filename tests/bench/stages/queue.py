"""What the node's recurring looks into the database cost, by how many studies are in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from dicomnode.assemble.assembly import Assembly
from dicomnode.observe.figures import read_figures
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, migrate, utc_now
from dicomnode.records.queries import held_studies, overview, troubled_destinations
from dicomnode.records.tables import InstanceRow, JobRow, StudyRow
from dicomnode.route.dispatch import Dispatch
from dicomnode.settings.node import Settings
from dicomnode.work.jobs import JobQueue
from inference.registry import Registry
from tests.bench.bulk import Record, fill_tables
from tests.bench.harness import Case, Contender, Run, Setting, Stage
from tests.bench.large_node import instances, jobs, studies
from tests.dicomnode.parts import settings_in

WAITING = (1, 100, 1_000, 10_000, 100_000)
TIMES = 5
"""So often in a round: one look is too short to be timed."""
FULL = "2000 jobs wait for a worker, as many as may (limit 2000)"

Work = Callable[[Database, Settings], Callable[[], object]]


def lease(database: Database, settings: Settings) -> Callable[[], object]:
    """A worker leases the first job of a queue."""
    queue = JobQueue(database, Audit("bench"), settings.worker, "bench", {})
    return queue.lease_next


def hold(database: Database, settings: Settings) -> Callable[[], object]:
    """Housekeeping looks at complete studies while the queue of jobs is full."""
    registry = Registry(settings.models.folder, frozenset())
    return Dispatch(settings, database, registry, Audit("bench")).route_complete_studies


def watch(database: Database, settings: Settings) -> Callable[[], object]:
    """Housekeeping looks at studies that are arriving, none of which is over."""
    return Assembly(settings, database).close_complete_studies


def status(database: Database, _: Settings) -> Callable[[], object]:
    """What `dicomnode status` and the page Now count."""

    def ask() -> None:
        with database.snapshot() as session:
            held_studies(session), overview(session), troubled_destinations(session)
            read_figures(session, frozenset(), finished=False)

    return ask


KINDS: dict[str, tuple[str, Work]] = {
    "lease a job": ("routed", lease),
    "hold complete studies": ("complete", hold),
    "watch arriving studies": ("receiving", watch),
    "count for the status": ("routed", status),
}
"""What is done, and the state of the studies that it is done with; each has a queued job."""


def cases(setting: Setting) -> Iterator[Case]:
    """One node on SQLite for each number of studies and each state that they are in."""
    for count in setting.choose(WAITING[:2], WAITING[:4], WAITING):
        contenders = tuple(
            Contender(name, partial(_opened, setting.folder / f"{count}-{place}", count, state, work))
            for place, (name, (state, work)) in enumerate(KINDS.items())
        )
        yield Case(
            f"{count} studies", contenders, count=TIMES, unit="looks", at=("studies in the queue", count)
        )


@contextmanager
def _opened(folder: Path, count: int, state: str, work: Work) -> Iterator[Run]:
    folder.mkdir()
    settings = settings_in(folder)
    database = Database(settings.database_url)
    migrate(database)
    now = utc_now()
    fill_tables(
        database.engine,
        (
            (StudyRow, (_study(record, state, now) for record in studies(count))),
            (InstanceRow, instances(count)),
            (JobRow, (_job(record) for record in jobs(max(count, settings.worker.maximum_waiting_jobs)))),
        ),
    )
    once = work(database, settings)

    def run() -> None:
        for _ in range(TIMES):
            once()

    yield run
    database.engine.dispose()


def _study(record: Record, state: str, now: Any) -> Record:
    times = {"first_received_at": now, "last_received_at": now + timedelta(hours=1)}
    held = {"held_reason": FULL if state == "complete" else None}
    return record | times | held | {"state": state}


def _job(record: Record) -> Record:
    """Queued."""
    ended = {"worker": None, "started_at": None, "finished_at": None, "error": None}
    return record | ended | {"state": "queued", "attempt": 0}


STAGE = Stage(
    "queue",
    "Growth with the queue",
    "What recurs while studies wait, on SQLite, five times a round: a worker leases the most urgent job; "
    "housekeeping finds that complete studies must wait, for the queue of jobs is full; it looks whether any "
    "of the arriving studies is over; and what `dicomnode status` and the page Now count. At least 2000 jobs "
    "are queued, as many as may be.",
    cases,
    rounds=5,
)
