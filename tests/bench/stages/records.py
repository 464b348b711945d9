"""Leases and events a second on SQLite and PostgreSQL, with 1, 4 and 16 processes at work on one database."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from multiprocessing.synchronize import Barrier

from sqlalchemy import update

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database, migrate, utc_now
from dicomnode.records.states import JobState
from dicomnode.records.tables import AuditRow, JobRow, StudyRow
from dicomnode.settings.node import WorkerSettings
from dicomnode.work.jobs import JobQueue
from tests.bench.harness import Case, Contender, Reading, Run, Setting, Stage
from tests.bench.needs import Need
from tests.postgres import installed, running_cluster

WORKERS = (1, 4, 16)
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
SEALED, UNSEALED = "sealed", "unsealed"
SERVER = Need(installed("initdb") is not None, "apt-get install postgresql")

Share = Callable[[str, int], None]
"""What one process does to the database of a URL, so many times."""


def write_events(url: str, times: int) -> None:
    """One event a transaction, as receiving does."""
    database, subject = Database(url), Subject("1.2.3", "1.2.3.4", "1.2.3.4.5")
    for _ in range(times):
        with database.transaction(beside_others=True) as session:
            Audit("bench").record(
                session, Event.INSTANCE_RECEIVED, subject, calling_ae_title="PACS", sha256="0" * 64
            )
    database.engine.dispose()


def write_rows(url: str, times: int) -> None:
    """The same rows in as many transactions, but in no chain: nobody waits for the event before."""
    database = Database(url)
    for _ in range(times):
        with database.transaction(beside_others=True) as session:
            session.add(
                AuditRow(
                    at=utc_now(), event=Event.INSTANCE_RECEIVED.value, actor="bench",
                    study_instance_uid="1.2.3", series_instance_uid="1.2.3.4", sop_instance_uid="1.2.3.4.5",
                    detail={"calling_ae_title": "PACS", "sha256": "0" * 64},
                    previous_sha256="0" * 64, sha256="0" * 64,
                )
            )  # fmt: skip
    database.engine.dispose()


def lease_jobs(url: str, times: int) -> None:
    """Lease until so many were had, or none is left for somebody else was faster."""
    database = Database(url)
    queue = JobQueue(database, Audit("bench"), WorkerSettings(), "bench", {})
    for _ in range(times):
        if queue.lease_next() is None:
            break
    database.engine.dispose()


def fill(database: Database, jobs: int) -> None:
    """A study with so many queued jobs."""
    now = utc_now()
    with database.transaction() as session:
        session.add(
            StudyRow(
                study_instance_uid="1.2.3", patient_id="P", accession_number="A", calling_ae_title="PACS",
                first_received_at=now, last_received_at=now,
            )
        )  # fmt: skip
        session.flush()
        session.add_all(
            JobRow(
                study_instance_uid="1.2.3", series_instance_uid=f"1.2.3.{number}", generation=1, route="r",
                destinations={"names": []}, model="m", model_digest="d", input_digest="i",
                notes={"lines": []}, priority=0, not_before=now, created_at=now,
            )
            for number in range(jobs)
        )  # fmt: skip


def share_out(url: str, workers: int, times: int, share: Share) -> float:
    """Seconds from the moment when all processes are ready until the last one is done."""
    start = multiprocessing.Barrier(workers + 1)
    processes = [
        multiprocessing.Process(target=_work, args=(url, times // workers, share, start))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - began


def _work(url: str, times: int, share: Share, start: Barrier) -> None:
    start.wait()
    share(url, times)


def cases(setting: Setting) -> Iterator[Case]:
    """Both kinds of work, by more and more processes."""
    times = setting.choose(16, 64, 160)
    with ExitStack() as servers:
        url, without_chain = "", ""
        if SERVER.present:
            cluster = servers.enter_context(running_cluster({}))
            url, without_chain = (
                cluster.url(name).replace("postgresql:", "postgresql+psycopg:") for name in (SEALED, UNSEALED)
            )
            for name in (SEALED, UNSEALED):
                cluster.create_database(name)
        for name, share in (("leases", lease_jobs), ("events", write_events)):
            for workers in setting.choose((1, 4), WORKERS, WORKERS):
                file = setting.folder / f"{name}-{workers}.sqlite"
                yield Case(
                    f"{name}, {workers} at once",
                    (
                        Contender(SQLITE, _opened(f"sqlite:///{file}", workers, times, share)),
                        Contender(POSTGRESQL, _opened(url, workers, times, share), (SERVER,)),
                    ),
                    SQLITE,
                    count=times,
                    unit=name,
                )
        sealed, unsealed = (f"sqlite:///{setting.folder / kind}.sqlite" for kind in (SEALED, UNSEALED))
        yield _cost_of_chain(setting, SQLITE, sealed, unsealed)
        yield _cost_of_chain(setting, POSTGRESQL, url, without_chain, SERVER)


def _cost_of_chain(setting: Setting, name: str, sealed: str, unsealed: str, *needs: Need) -> Case:
    """The same rows with a chain and without, each in a database of its own."""
    workers, times = setting.choose(4, 16, 16), setting.choose(16, 64, 320)
    return Case(
        f"what the chain costs on {name}, {workers} at once",
        (
            Contender(SEALED, _opened(sealed, workers, times, write_events), needs),
            Contender(UNSEALED, _opened(unsealed, workers, times, write_rows), needs),
        ),
        SEALED,
        count=times,
        unit="events",
    )


def _opened(url: str, workers: int, times: int, share: Share) -> Callable[[], AbstractContextManager[Run]]:
    @contextmanager
    def opened() -> Iterator[Run]:
        database = Database(url)
        migrate(database)
        with database.snapshot() as session:
            known = session.get(StudyRow, "1.2.3") is not None
        if not known:
            fill(database, times)
        yield partial(_round, database, url, workers, times, share)
        with database.snapshot() as session:
            assert share is write_rows or not verify_chain(session).faults, "the chain broke"
        database.engine.dispose()

    return opened


def _round(database: Database, url: str, workers: int, times: int, share: Share) -> Reading:
    with database.transaction() as session:
        session.execute(update(JobRow).values(state=JobState.QUEUED.value))
    database.engine.dispose()  # the processes begin without connections of ours
    return Reading(share_out(url, workers, times, share))


STAGE = Stage(
    "records",
    "Leases and events",
    "Processes lease jobs (a lease and its event in one transaction), or write one event a transaction, as "
    "fast as they can, on SQLite (WAL, `synchronous=FULL`) and on PostgreSQL on the same machine with its "
    "durable defaults. All events form one sealed chain, which is verified at the end of each case. What is "
    "called unsealed writes the same rows without a chain.",
    cases,
    rounds=5,
)
