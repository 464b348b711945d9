"""The queue: one worker holds a job, a stale one publishes nothing, and nothing is half-published."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from dicomnode.errors import StaleLease
from dicomnode.forms import Form, kinds_of
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow
from dicomnode.selftest.bundles import write_bundle
from dicomnode.settings.node import PrioritySettings, RouteSettings, WorkerSettings
from dicomnode.study import Series
from dicomnode.urgency import rank
from dicomnode.work import losses
from dicomnode.work.jobs import JobQueue, Lease, NewResult
from dicomnode.work.losses import Recovery, give_up, recover_lost_leases
from dicomnode.work.orders import Order, create_job, replay_job
from inference.bundle import ModelBundle, read_bundle
from tests.dicomnode.parts import arrival, events, image, kinds, series_of

pytestmark = pytest.mark.both_databases

RULES = WorkerSettings(lease_s=30, maximum_attempts=3, retry_delay_s=10)
AUDIT = Audit("test")
SUMMARY = {"slice_count": 1, "lesion_count": 0, "total_volume_mm3": 0.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return read_bundle(write_bundle(tmp_path_factory.mktemp("models") / "threshold"))


@pytest.fixture(autouse=True)
def study(intake: Intake) -> None:
    """Jobs belong to a study that is known."""
    intake.take(arrival(image()))


def route(name: str = "lesions", priority: int = 0) -> RouteSettings:
    return RouteSettings.model_validate(
        {"name": name, "model": "threshold", "destinations": ["A", "B"], "priority": priority,
         "when": {"modality": "CT"}}
    )  # fmt: skip


def order(
    bundle: ModelBundle,
    series: Series | None = None,
    *,
    send: bool = True,
    name: str = "lesions",
    priority: int = 0,
) -> Order:
    rules = PrioritySettings()
    return Order(
        series=series or series_of(),
        generation=1,
        route=route(name, priority),
        bundle=bundle,
        send=send,
        priority=priority,
        ranked_at=rank(utc_now(), priority, rules),
        notes=("a note",),
    )


def put(database: Database, order: Order) -> tuple[int, bool]:
    with database.transaction() as session:
        job, new = create_job(session, AUDIT, order)
        return job.id, new


def job_of(database: Database, job_id: int = 1) -> JobRow:
    with database.snapshot() as session:
        return session.get_one(JobRow, job_id)


def change(database: Database, job_id: int = 1, **values: object) -> None:
    with database.transaction() as session:
        row = session.get_one(JobRow, job_id)
        for name, value in values.items():
            setattr(row, name, value)


def queue(database: Database, worker: str = "w") -> JobQueue:
    return JobQueue(database, AUDIT, RULES, worker, {})


def leased(database: Database, worker: str = "w") -> Lease:
    found = queue(database, worker).lease_next()
    assert found is not None
    return found[0]


def expire(database: Database, job_id: int = 1) -> None:
    change(database, job_id, lease_expires_at=utc_now() - timedelta(seconds=1))
    recover_lost_leases(database, AUDIT, RULES)
    change(database, job_id, not_before=utc_now())


def results(*numbers: int) -> tuple[NewResult, ...]:
    return tuple(
        NewResult("seg", "1.2.840", f"1.2.{n}", "1.2.9", 1, "ab" * 32, Path(f"{n}.dcm")) for n in numbers
    )


def count(database: Database, table: type[JobRow] | type[ResultRow] | type[DeliveryRow]) -> int:
    with database.snapshot() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_the_same_order_twice_is_one_job(database: Database, bundle: ModelBundle) -> None:
    same = order(bundle)
    assert put(database, same) == (1, True)
    assert put(database, same) == (1, False)
    assert count(database, JobRow) == 1
    assert kinds(database).count("job_created") == 1


def test_changed_input_supersedes_the_job_that_waits(database: Database, bundle: ModelBundle) -> None:
    put(database, order(bundle, series_of(1)))
    put(database, order(bundle, series_of(2)))
    assert (job_of(database, 1).state, job_of(database, 2).state) == ("superseded", "queued")
    assert job_of(database, 1).finished_at is not None


def test_input_that_changes_back_takes_the_first_job_up_again(
    database: Database, bundle: ModelBundle
) -> None:
    first = order(bundle, series_of(1))
    put(database, first)
    put(database, order(bundle, series_of(2)))
    assert put(database, first) == (1, False)
    assert [job_of(database, n).state for n in (1, 2)] == ["queued", "superseded"]
    assert job_of(database, 1).finished_at is None
    assert leased(database).job_id == 1


def test_a_job_that_is_taken_up_again_for_a_candidate_sends_nothing(
    database: Database, bundle: ModelBundle
) -> None:
    sending = order(bundle)
    put(database, sending)
    change(database, state="superseded")
    put(database, replace(sending, send=False))
    job = job_of(database)
    assert (job.state, job.shadow, job.destinations) == ("queued", True, {"names": []})


def test_changed_input_leaves_a_running_job_and_other_routes_alone(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle, series_of(1)))
    leased(database)
    put(database, order(bundle, series_of(1), name="other"))
    put(database, order(bundle, series_of(2)))
    assert [job_of(database, n).state for n in (1, 2, 3)] == ["running", "queued", "queued"]


def test_urgent_jobs_come_first_then_older_ones(database: Database, bundle: ModelBundle) -> None:
    for number, priority in enumerate((0, 5, 0)):
        put(database, order(bundle, series_of(SeriesInstanceUID=f"1.2.{number}"), priority=priority))
    assert [leased(database).job_id for _ in range(3)] == [2, 1, 3]
    assert queue(database).lease_next() is None


def test_a_job_that_is_not_due_is_not_leased(database: Database, bundle: ModelBundle) -> None:
    put(database, order(bundle))
    change(database, not_before=utc_now() + timedelta(seconds=60))
    assert queue(database).lease_next() is None


def test_many_workers_never_hold_the_same_job(database: Database, bundle: ModelBundle) -> None:
    for number in range(12):
        put(database, order(bundle, series_of(SeriesInstanceUID=f"1.2.{number}")))
    held: list[int] = []

    def work(name: str) -> None:
        while found := queue(database, name).lease_next():
            held.append(found[0].job_id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == list(range(1, 13))


def test_a_lease_is_renewed_while_it_is_held(database: Database, bundle: ModelBundle) -> None:
    put(database, order(bundle))
    lease = leased(database)
    change(database, lease_expires_at=utc_now() + timedelta(seconds=1))
    assert queue(database).renew(lease)
    expires = job_of(database).lease_expires_at
    assert expires is not None
    assert expires > utc_now() + timedelta(seconds=25)


def test_a_worker_that_lost_its_lease_can_do_nothing_with_the_job(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    old = leased(database, "paused")
    expire(database)
    new = leased(database, "successor")
    paused = queue(database, "paused")
    assert not paused.renew(old)
    with pytest.raises(StaleLease, match="nothing is published"):
        paused.succeed(old, results(1), SUMMARY)
    for end in (paused.fail, paused.retry_later, paused.supersede):
        with pytest.raises(StaleLease, match="nothing is published"):
            end(old, "x")
    assert count(database, ResultRow) == 0
    assert (job_of(database).state, job_of(database).worker) == ("running", "successor")
    queue(database, "successor").succeed(new, results(1), SUMMARY)
    assert job_of(database).state == "succeeded"


def test_success_publishes_results_and_a_delivery_for_each_destination(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    queue(database).succeed(leased(database), results(1, 2), SUMMARY)
    with database.snapshot() as session:
        sent = [(d.sop_instance_uid, d.destination, d.state) for d in session.scalars(select(DeliveryRow))]
    assert sent == [(uid, destination, "waiting") for uid in ("1.2.1", "1.2.2") for destination in ("A", "B")]
    assert kinds(database)[-3:] == ["result_created", "result_created", "job_succeeded"]
    assert job_of(database).lease_expires_at is None


def test_a_form_that_was_left_out_is_told_with_the_destinations_that_wait_for_it(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    jobs = JobQueue(database, AUDIT, RULES, "w", {"B": kinds_of([Form.RTSTRUCT])})
    jobs.succeed(leased(database), results(1), {**SUMMARY, "left_out": {"rtstruct": "ValueError"}})
    ((_, told),) = events(database, "result_left_out")
    assert told == {"kind": "rtstruct", "error": "ValueError", "destinations": ["B"]}
    with database.snapshot() as session:
        assert list(session.scalars(select(DeliveryRow.destination))) == ["A"]


def test_a_model_in_shadow_delivers_nothing(database: Database, bundle: ModelBundle) -> None:
    put(database, order(bundle, send=False))
    queue(database).succeed(leased(database), results(1), SUMMARY)
    assert (count(database, ResultRow), count(database, DeliveryRow)) == (1, 0)


def test_a_crash_while_publishing_leaves_nothing_published(
    database: Database, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, order(bundle))
    lease = leased(database)
    before = kinds(database)
    record = Audit.record

    def crashes(self: Audit, session: object, event: Event, *rest: object, **detail: object) -> None:
        if event is Event.JOB_SUCCEEDED:
            raise KeyboardInterrupt
        record(self, session, event, *rest, **detail)  # type: ignore[arg-type]

    monkeypatch.setattr(Audit, "record", crashes)
    with pytest.raises(KeyboardInterrupt):
        queue(database).succeed(lease, results(1, 2), SUMMARY)
    assert (count(database, ResultRow), count(database, DeliveryRow)) == (0, 0)
    assert kinds(database) == before
    assert job_of(database).state == "running"


def test_a_transient_failure_waits_longer_each_time_and_fails_after_the_last_attempt(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    for delay_s in (10, 20):
        before = utc_now()
        queue(database).retry_later(leased(database), "disk busy")
        assert job_of(database).not_before >= before + timedelta(seconds=delay_s)
        change(database, not_before=utc_now())
    assert [detail["delay_s"] for _, detail in events(database, "job_retried")] == [10, 20]
    queue(database).retry_later(leased(database), "disk busy")
    found = job_of(database)
    assert (found.state, found.attempt, found.error) == ("failed", 3, "disk busy (attempt 3 of 3)")
    assert kinds(database).count("job_retried") == 2
    assert events(database, "job_failed")[0][1]["attempt"] == 3


def test_a_lost_worker_is_noticed_only_when_its_lease_has_expired(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    leased(database, "cuda:0 pid 1")
    recover_lost_leases(database, AUDIT, RULES)
    assert job_of(database).state == "running"
    change(database, lease_expires_at=utc_now() - timedelta(seconds=1), stage="segment")
    recover_lost_leases(database, AUDIT, RULES)
    assert job_of(database).state == "queued"
    assert job_of(database).error == "worker cuda:0 pid 1 was lost in stage segment"
    assert kinds(database)[-1] == "job_recovered"


def test_a_job_that_kills_its_worker_is_tried_once_more_and_then_fails(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    for _ in range(2):
        assert job_of(database).state == "queued"
        leased(database)
        expire(database)
    found = job_of(database)
    assert (found.state, found.losses) == ("failed", 2)
    assert "2 worker(s) were lost on this job" in str(found.error)
    with database.transaction() as session:
        replay_job(session, AUDIT, session.get_one(JobRow, 1))
    assert job_of(database).losses == 0


def test_a_worker_that_gives_up_says_why_and_loses_the_job_at_once(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    lease = leased(database)
    give_up(database, AUDIT, RULES, lease, "the job took longer than 900 s")
    found = job_of(database)
    assert (found.state, found.losses, found.error) == ("queued", 1, "the job took longer than 900 s")
    assert kinds(database)[-1] == "job_recovered"
    with pytest.raises(StaleLease):
        give_up(database, AUDIT, RULES, lease, "again")


def test_a_failed_job_that_is_replayed_starts_from_its_first_attempt(
    database: Database, bundle: ModelBundle
) -> None:
    put(database, order(bundle))
    queue(database).fail(leased(database), "broken")
    with database.transaction() as session:
        replay_job(session, AUDIT, session.get_one(JobRow, 1))
    found = job_of(database)
    assert (found.state, found.attempt, found.error, found.finished_at) == ("queued", 0, None, None)
    assert leased(database).fencing_token == 2


def test_a_job_that_succeeded_cannot_be_replayed(database: Database, bundle: ModelBundle) -> None:
    put(database, order(bundle))
    queue(database).succeed(leased(database), (), SUMMARY)
    with pytest.raises(ValueError, match="no move"), database.transaction() as session:
        replay_job(session, AUDIT, session.get_one(JobRow, 1))


def test_after_the_database_was_away_workers_first_get_the_time_to_renew_their_leases(
    database: Database, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, order(bundle))
    leased(database)
    change(database, lease_expires_at=utc_now() - timedelta(seconds=1))
    recovery = Recovery(database, AUDIT, RULES)
    with monkeypatch.context() as away:
        away.setattr(database, "snapshot", lambda: (_ for _ in ()).throw(OperationalError("", {}, OSError())))
        with pytest.raises(OperationalError):
            recovery.tick()
    recovery.tick()
    assert "job_recovered" not in kinds(database)
    later = time.monotonic() + RULES.lease_s
    monkeypatch.setattr(losses, "time", SimpleNamespace(monotonic=lambda: later))
    recovery.tick()
    assert "job_recovered" in kinds(database)
