"""What the node asks of PostgreSQL: one writer where it counts, leases side by side, signals, moments.

That its code does the same on both databases is shown by the tests that are marked `both_databases`;
a server that goes away under a whole node is in `tests/system/test_postgresql.py`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, OperationalError

from dicomnode.checks.finding import Verdict
from dicomnode.checks.node import check_node
from dicomnode.commands.options import open_node
from dicomnode.errors import TransientError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database, migrate, utc_now
from dicomnode.records.known import KnownInstances
from dicomnode.records.tables import AuditRow, JobRow, StudyRow
from dicomnode.records.wake import Topic, announce
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.database import DATABASE_URL
from dicomnode.settings.node import Settings
from dicomnode.work.jobs import JobQueue
from tests.dicomnode.parts import events, settings_in, wait_until, write_config
from tests.postgres import Cluster, running_cluster

LONG_S = 60.0
AT = utc_now()

postgresql = pytest.mark.parametrize("store", ["postgresql"], indirect=True)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def locks_waited_for(database: Database) -> int:
    with database.engine.connect() as connection:
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return int(connection.scalar(waiting) or 0)


def study(patient_id: str) -> StudyRow:
    return StudyRow(
        study_instance_uid="1.2", patient_id=patient_id, accession_number="", calling_ae_title="PACS",
        first_received_at=AT, last_received_at=AT,
    )  # fmt: skip


@postgresql
def test_images_are_not_refused_because_the_server_was_away_before_they_came(database: Database) -> None:
    known = KnownInstances(database)
    assert "1.2.3" not in known
    with database.engine.begin() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(text(f"{others} AND datname = current_database()"))
    assert "1.2.3" not in known


def queued_jobs(database: Database, count: int) -> list[int]:
    jobs = [
        JobRow(
            study_instance_uid="1.2", series_instance_uid=f"1.2.{number}", generation=1, route="r",
            destinations={"names": []}, model="m", model_digest="d", input_digest="i", notes={"lines": []},
            priority=0, not_before=AT, created_at=AT,
        )
        for number in range(count)
    ]  # fmt: skip
    with database.transaction() as session:
        session.add(study("P"))
        session.flush()
        session.add_all(jobs)
    return [job.id for job in jobs]


@postgresql
def test_who_writes_is_alone(database: Database) -> None:
    def write() -> None:
        with database.transaction(beside_others=True) as session:
            Audit("other").record(session, Event.JOB_REPLAYED, Subject())

    with database.transaction() as session:
        Audit("first").record(session, Event.JOB_REPLAYED, Subject())
        other = in_thread(write)
        wait_until(lambda: locks_waited_for(database) == 1, LONG_S)
        assert events(database) == []
    other.join(LONG_S)
    with database.snapshot() as session:
        assert list(session.scalars(select(AuditRow.actor).order_by(AuditRow.id))) == ["first", "other"]


@postgresql
def test_who_takes_his_own_locks_writes_beside_others_of_his_kind(database: Database) -> None:
    with database.transaction(beside_others=True) as session:
        session.execute(text("SELECT 1"))
        with database.transaction(beside_others=True) as other:
            Audit("other").record(other, Event.JOB_REPLAYED, Subject())
        assert len(events(database)) == 1


@postgresql
def test_a_snapshot_is_of_one_moment_and_cannot_write(database: Database) -> None:
    with database.snapshot() as session:
        before = len(list(session.scalars(select(AuditRow))))
        with database.transaction() as writing:
            Audit("test").record(writing, Event.JOB_REPLAYED, Subject())
        assert len(list(session.scalars(select(AuditRow)))) == before == 0
        with pytest.raises(DBAPIError, match="read-only"):
            session.execute(text("DELETE FROM studies"))


@postgresql
def test_signals_are_heard_by_another_process_after_the_commit_and_many_are_one(
    settings: Settings, database: Database
) -> None:
    program = (
        "import sys; from pathlib import Path; from dicomnode.config import load_settings\n"
        "from dicomnode.records.db import Database; from dicomnode.records.wake import Topic\n"
        "database = Database(load_settings(Path(sys.argv[1])).database_url)\n"
        "ear = database.wake.listen(Topic.JOBS); print('listening', flush=True)\n"
        f"sys.exit(0 if ear.wait({LONG_S}) and not ear.wait(0) else 1)"
    )
    command = [sys.executable, "-c", program, str(settings.node.data.parent / "node.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        with database.wake.listen(Topic.JOBS) as ear, database.wake.listen(Topic.DELIVERIES) as other:
            with pytest.raises(ZeroDivisionError), database.transaction() as session:
                announce(session, Topic.JOBS)
                _ = 1 / 0
            with database.transaction() as session:
                announce(session, Topic.JOBS)
                assert not ear.wait(0)
            assert ear.wait(LONG_S)
            assert not other.wait(0)
            assert listener.wait(LONG_S) == 0
            for _ in range(20):
                database.wake.signal(Topic.JOBS)
            assert ear.wait(LONG_S)


def test_a_server_that_comes_back_is_written_to_and_listened_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_cluster() as cluster:
        monkeypatch.setenv(DATABASE_URL, cluster.url("postgres"))
        database = Database(settings_in(tmp_path).database_url)
        migrate(database)
        with database.wake.listen(Topic.JOBS) as ear:
            cluster.stop("immediate")
            assert not ear.wait(LONG_S)  # it notices at once
            assert not ear.wait(0.01)
            database.wake.signal(Topic.JOBS)  # into the void
            with pytest.raises(OperationalError), database.transaction():
                raise AssertionError("there is no server")
            cluster.start()
            wait_until(lambda: ear.wait(0.1), LONG_S)
            with database.transaction() as session:
                announce(session, Topic.JOBS)
                Audit("test").record(session, Event.JOB_REPLAYED, Subject())
            assert ear.wait(LONG_S)
        assert len(events(database)) == 1
        database.engine.dispose()


def test_of_several_servers_the_one_that_takes_writes_is_used(
    cluster: Cluster, new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_database()
    with cluster.engine().connect() as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    monkeypatch.setenv(DATABASE_URL, cluster.url(name))
    with pytest.raises(OperationalError, match="read-only"):
        Database(settings_in(tmp_path).database_url).engine.connect()


@postgresql
def test_text_with_nul_is_kept_with_its_sign_and_the_chain_holds(database: Database) -> None:
    with database.transaction() as session:
        session.add(study("A\0B"))
        Audit("a\0b").record(session, Event.JOB_REPLAYED, Subject(), calling_ae_title="P\0", other=["x\0"])
    with database.snapshot() as session:
        assert session.get_one(StudyRow, "1.2").patient_id == "A\N{SYMBOL FOR NULL}B"
        (row,) = session.scalars(select(AuditRow))
        assert (row.actor, row.peer) == ("a\N{SYMBOL FOR NULL}b", "P\N{SYMBOL FOR NULL}")
        assert verify_chain(session).faults == ()


@postgresql
def test_leases_are_taken_side_by_side_and_never_twice(settings: Settings, database: Database) -> None:
    jobs = queued_jobs(database, 20)
    queues = [JobQueue(database, Audit(f"w{n}"), settings.worker, f"w{n}", settings.wanted) for n in range(4)]
    taken: list[int] = []

    def work(queue: JobQueue) -> None:
        while leased := queue.lease_next():
            taken.append(leased[0].job_id)

    with database.transaction(beside_others=True) as session:  # somebody has the first one in hand
        session.scalars(select(JobRow).where(JobRow.id == jobs[0]).with_for_update()).one()
        threads = [in_thread(partial(work, queue)) for queue in queues]
        for thread in threads:
            thread.join(LONG_S)
    assert sorted(taken) == jobs[1:]
    with database.snapshot() as session:
        assert verify_chain(session).faults == ()


@postgresql
def test_a_server_that_may_lose_commits_is_wrong(settings: Settings) -> None:
    findings = {
        f.detail for f in check_node(settings) if f.subject == "database" and f.verdict is Verdict.WRONG
    }
    assert findings == {
        "fsync, full_page_writes, synchronous_commit: off, so what was acknowledged can be lost; turn it on"
    }


def test_a_database_that_is_away_at_the_start_is_told_of_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_URL, f"postgresql://node:Sesame7@127.0.0.1:{free_port()}/node")
    with pytest.raises(TransientError, match="start its server") as caught:
        open_node(write_config(tmp_path))
    assert "Sesame7" not in str(caught.value)
