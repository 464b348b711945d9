"""Routing of complete studies against a real database: order, holding, priority."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from dicomnode.receive.arrival import Origin
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import JobRow, StudyRow
from dicomnode.replay import replay_of_study
from dicomnode.route.dispatch import Dispatch
from dicomnode.selftest.bundles import write_bundle
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from inference.registry import Registry, find_bundles
from tests.dicomnode.parts import arrival, events, image, settings_in
from tests.dicomnode.test_assembly import add_result

pytestmark = pytest.mark.both_databases

MORE = """
[worker]
maximum_waiting_jobs = 2

[[peer]]
name = "ER"
ae_title = "ER_CT"
host = "127.0.0.1"
port = 104
may_send = true
priority = 7
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder / "threshold")
    return find_bundles(folder, frozenset())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, MORE)


@pytest.fixture
def dispatch(settings: Settings, database: Database, registry: Registry) -> Dispatch:
    return Dispatch(settings, database, registry, Audit("routing"))


def complete(
    intake: Intake, database: Database, number: int, calling: str = "PACS", **attributes: str
) -> str:
    """A study of one image that is complete."""
    uid = f"1.2.3.{number}"
    sent = image(StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", **attributes)
    intake.take(arrival(sent, origin=Origin(calling, "127.0.0.1", "LESIONNODE")))
    with database.transaction() as session:
        row = session.get_one(StudyRow, uid)
        row.state, row.completed_at, row.completed_by = "complete", utc_now(), "quiet_period"
    return uid


def study(database: Database, uid: str) -> StudyRow:
    with database.snapshot() as session:
        return session.get_one(StudyRow, uid)


def jobs(database: Database) -> list[JobRow]:
    with database.snapshot() as session:
        return list(session.scalars(select(JobRow).order_by(JobRow.id)))


def test_two_studies_with_the_same_series_uid_have_a_job_each(
    settings: Settings, database: Database, intake: Intake, dispatch: Dispatch
) -> None:
    for number in (1, 2):
        intake.take(arrival(image(StudyInstanceUID=f"1.2.3.{number}", SeriesInstanceUID="1.2.3.9")))
        with database.transaction() as session:
            row = session.get_one(StudyRow, f"1.2.3.{number}")
            row.state, row.completed_at, row.completed_by = "complete", utc_now(), "quiet_period"
        dispatch.route_complete_studies()
    found = [(job.study_instance_uid, job.state) for job in jobs(database)]
    assert found == [("1.2.3.1", "queued"), ("1.2.3.2", "queued")]


def test_studies_beyond_the_limit_are_held_with_a_reason_until_there_is_room(
    intake: Intake, database: Database, dispatch: Dispatch
) -> None:
    uids = [complete(intake, database, number) for number in range(4)]
    for _ in range(3):
        dispatch.route_complete_studies()
    assert [study(database, uid).state for uid in uids] == ["routed", "routed", "complete", "complete"]
    reason = "2 jobs wait for a worker, as many as may (limit 2)"
    assert [study(database, uid).held_reason for uid in uids] == [None, None, reason, reason]
    assert events(database, "study_held") == [("study_held", {"reason": reason})] * 2, "told once of each"
    with database.transaction() as session:
        session.get_one(JobRow, 1).state = "running"
    dispatch.route_complete_studies()
    assert [study(database, uid).state for uid in uids] == ["routed", "routed", "routed", "complete"]
    assert study(database, uids[2]).held_reason is None


def test_results_that_cannot_be_sent_hold_new_studies_too(
    intake: Intake, database: Database, dispatch: Dispatch
) -> None:
    full = dispatch.settings.delivery.model_copy(update={"maximum_waiting": 1})
    uid = complete(intake, database, 1)
    with database.transaction() as session:
        add_result(session, 1, "waiting", study_instance_uid=uid)
    held = Dispatch(
        dispatch.settings.model_copy(update={"delivery": full}), database, dispatch.registry, dispatch.audit
    )
    held.route_complete_studies()
    assert study(database, uid).held_reason == "1 results wait to be sent, as many as may (limit 1)"


def test_studies_wait_while_the_spool_is_away(intake: Intake, database: Database, dispatch: Dispatch) -> None:
    uid = complete(intake, database, 1)
    spool = dispatch.settings.spool
    spool.rename(spool.with_name("away"))
    dispatch.route_complete_studies()
    assert study(database, uid).state == "complete"
    assert str(study(database, uid).held_reason).endswith("is not there; mount its disk")
    spool.with_name("away").rename(spool)
    dispatch.route_complete_studies()
    assert study(database, uid).state == "routed"


def test_a_study_of_which_an_image_cannot_be_read_is_parked_and_not_routed_without_it(
    intake: Intake, database: Database, dispatch: Dispatch
) -> None:
    uid = complete(intake, database, 1)
    (file,) = Spool(dispatch.settings.spool).files()
    file.rename(file.with_suffix(".away"))
    dispatch.route_complete_studies()
    assert study(database, uid).state == "parked"
    assert "its images cannot be read" in events(database, "study_parked")[0][1]["reason"]
    file.with_suffix(".away").rename(file)
    with database.transaction() as session:
        assert replay_of_study(session, Audit("admin"), uid).studies == 1
    dispatch.route_complete_studies()
    assert study(database, uid).state == "routed"


def test_studies_wait_while_the_spool_can_neither_be_read_nor_written(
    intake: Intake, database: Database, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise OSError(5, "Input/output error")

    uid = complete(intake, database, 1)
    with monkeypatch.context() as broken:
        broken.setattr("dicomnode.assemble.stored.read_instance", raises)
        broken.setattr(Spool, "works", lambda _: False)
        dispatch.route_complete_studies()
    assert study(database, uid).state == "complete"
    dispatch.route_complete_studies()
    assert study(database, uid).state == "routed"


def test_the_most_urgent_of_the_held_studies_is_routed_first(
    intake: Intake, database: Database, dispatch: Dispatch
) -> None:
    for number in range(3):
        complete(intake, database, number)
    dispatch.route_complete_studies()
    urgent = complete(intake, database, 9, RequestedProcedurePriority="STAT")
    with database.transaction() as session:
        session.get_one(JobRow, 1).state = "running"
    dispatch.route_complete_studies()
    assert jobs(database)[-1].study_instance_uid == urgent


def test_the_priority_of_a_job_is_that_of_route_sender_and_images_together(
    intake: Intake, database: Database, dispatch: Dispatch
) -> None:
    complete(intake, database, 1, calling="ER_CT", RequestedProcedurePriority="HIGH")
    complete(intake, database, 2)
    dispatch.route_complete_studies()
    found = {job.study_instance_uid: job for job in jobs(database)}
    assert {uid: job.priority for uid, job in found.items()} == {"1.2.3.1": 12, "1.2.3.2": 0}
    assert found["1.2.3.1"].ranked_at < found["1.2.3.2"].ranked_at


def test_a_study_parked_for_what_is_missing_is_processed_by_hand_and_its_reports_say_what(
    intake: Intake, database: Database, dispatch: Dispatch
) -> None:
    uid = complete(intake, database, 1)
    missing = "1 of the instances that PACS holds had not arrived"
    with database.transaction() as session:
        row = session.get_one(StudyRow, uid)
        row.state, row.completed_by, row.missing = "parked", "deadline", missing
    dispatch.route_complete_studies()
    assert jobs(database) == []
    with database.transaction() as session:
        assert replay_of_study(session, Audit("admin"), uid).studies == 1
    dispatch.route_complete_studies()
    (job,) = jobs(database)
    assert job.notes["lines"] == [
        "The study was closed at its deadline, not because it was known to be whole.",
        f"The study may not be complete: {missing}.",
    ]
