"""When a study is complete: tables of situations, and the decision against a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from dicomnode.assemble.assembly import Assembly, CompletedBy, Progress, completed_by, count_is_due
from dicomnode.receive.intake import Intake
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow, StudyRow
from dicomnode.settings import AssemblySettings, Settings
from tests.dicomnode.parts import arrival, events, image, settings_in

START = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
RULES = AssemblySettings(quiet_period_s=30, deadline_s=600, settle_s=1, count_interval_s=5)
STUDY = "1.2.3.4"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def progress(last: float, received: int, expected: int | None = None, asked: float | None = None) -> Progress:
    return Progress(START, at(last), received, expected, None if asked is None else at(asked))


@pytest.mark.parametrize(
    ("progress", "now", "rule"),
    [
        (progress(0, 1), 0, None),
        (progress(0, 1), 29.9, None),
        (progress(0, 1), 30, CompletedBy.QUIET_PERIOD),
        (progress(590, 9), 599, None),
        (progress(590, 9), 600, CompletedBy.DEADLINE),
        (progress(590, 9), 620, CompletedBy.QUIET_PERIOD),
        (progress(5, 3, expected=3, asked=6), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, 4, expected=3, asked=6), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, 2, expected=3, asked=6), 6, None),
        (progress(5, 3, expected=3, asked=5.9), 6, None),
        (progress(5, 3, expected=3, asked=4), 34, None),
        (progress(5, 3, expected=3, asked=4), 35, CompletedBy.QUIET_PERIOD),
        (progress(5, 2, expected=3, asked=6), 35, CompletedBy.QUIET_PERIOD),
        (progress(5, 3, expected=None, asked=6), 6, None),
    ],
)
def test_a_study_is_complete_by_the_first_rule_that_holds(
    progress: Progress, now: float, rule: CompletedBy | None
) -> None:
    assert completed_by(progress, RULES, at(now)) is rule


@pytest.mark.parametrize(
    ("progress", "now", "due"),
    [
        (progress(5, 3), 5.9, False),
        (progress(5, 3), 6, True),
        (progress(5, 3, asked=4), 6, True),
        (progress(5, 3, expected=9, asked=6), 7, False),
        (progress(5, 3, expected=9, asked=6), 10.9, False),
        (progress(5, 3, expected=9, asked=6), 11, True),
        (progress(5, 3, expected=None, asked=6), 11, True),
    ],
)
def test_the_count_is_asked_after_a_pause_and_again_at_intervals(
    progress: Progress, now: float, due: bool
) -> None:
    assert count_is_due(progress, RULES, at(now)) is due


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node that asks its peer for counts."""
    found = settings_in(tmp_path, "[assembly]\nquiet_period_s = 30\ndeadline_s = 600\nsettle_s = 1\n")
    peer = found.peer[0].model_copy(update={"count_instances": True})
    return found.model_copy(update={"peer": (peer,)})


def change(database: Database, **values: object) -> None:
    with database.transaction() as session:
        row = session.get_one(StudyRow, STUDY)
        for name, value in values.items():
            setattr(row, name, value)


def study(database: Database) -> StudyRow:
    with database.snapshot() as session:
        return session.get_one(StudyRow, STUDY)


def ago(seconds: float) -> datetime:
    return utc_now() - timedelta(seconds=seconds)


def test_a_study_that_is_still_arriving_stays_open(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    Assembly(settings, database).close_complete_studies()
    assert study(database).state == "receiving"


def test_a_quiet_study_is_closed_once_with_its_rule(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(31))
    for _ in range(2):
        Assembly(settings, database).close_complete_studies()
    found = study(database)
    assert (found.state, found.completed_by) == ("complete", "quiet_period")
    assert found.completed_at is not None
    detail = {"rule": "quiet_period", "generation": 1, "received_count": 2, "expected_count": None}
    assert events(database, "study_completed") == [("study_completed", detail)]


def test_a_count_that_is_reached_closes_the_study_before_it_is_quiet(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    intake.take(arrival(image()))
    change(database, last_received_at=ago(3), expected_count=2, expected_asked_at=ago(1))
    Assembly(settings, database).close_complete_studies()
    assert study(database).completed_by == "expected_count"


def test_a_count_asked_before_the_last_arrival_does_not_close_the_study(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    change(database, last_received_at=ago(3), expected_count=1, expected_asked_at=ago(2.5))
    Assembly(settings, database).close_complete_studies()
    assert study(database).state == "receiving"


def test_versions_of_one_instance_count_once(settings: Settings, database: Database, intake: Intake) -> None:
    sent = image()
    intake.take(arrival(sent))
    sent.SeriesDescription = "Corrected"
    intake.take(arrival(sent))
    change(database, last_received_at=ago(3), expected_count=2, expected_asked_at=ago(1))
    Assembly(settings, database).close_complete_studies()
    assert study(database).state == "receiving"


def add_result(
    session: Session, number: int, state: str, destination: str = "PACS", study_instance_uid: str = STUDY
) -> None:
    now = utc_now()
    uid = f"1.2.{number}"
    job = JobRow(
        study_instance_uid=study_instance_uid, series_instance_uid="1.2", generation=1, route=f"r{number}",
        destinations={}, model="m", model_digest="d", input_digest=f"i{number}", notes={}, priority=0,
        not_before=now, created_at=now,
    )  # fmt: skip
    session.add(job)
    session.flush()
    session.add(
        ResultRow(
            sop_instance_uid=uid, job_id=job.id, kind="seg", sop_class_uid="1",
            study_instance_uid=study_instance_uid,
            series_instance_uid="1.9", instance_number=1, sha256="s", path="p", created_at=now,
        )
    )  # fmt: skip
    session.flush()
    session.add(
        DeliveryRow(sop_instance_uid=uid, job_id=job.id, destination=destination, state=state, not_before=now)
    )


def test_our_delivered_results_are_counted_because_the_peer_counts_them_too(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    with database.transaction() as session:
        add_result(session, 1, "waiting")
        add_result(session, 2, "delivered", destination="ELSEWHERE")
    change(database, last_received_at=ago(3), expected_count=2, expected_asked_at=ago(1))
    Assembly(settings, database).close_complete_studies()
    assert study(database).state == "receiving"
    with database.transaction() as session:
        add_result(session, 3, "delivered")
    Assembly(settings, database).close_complete_studies()
    assert study(database).completed_by == "expected_count"


def test_an_instance_between_decision_and_close_keeps_the_study_open(
    settings: Settings, database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(31))
    close = Assembly._close

    def arrives_first(self: Assembly, session: Session, study_instance_uid: str) -> None:
        session.get_one(StudyRow, STUDY).last_received_at = utc_now()
        close(self, session, study_instance_uid)

    monkeypatch.setattr(Assembly, "_close", arrives_first)
    Assembly(settings, database).close_complete_studies()
    assert study(database).state == "receiving"
    assert events(database, "study_completed") == []


def test_a_peer_that_cannot_be_asked_leaves_the_quiet_period_to_decide(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(31))
    assembly = Assembly(settings, database)
    assembly.ask_counts()
    assert study(database).expected_count is None
    assert study(database).expected_asked_at is not None
    assembly.close_complete_studies()
    assert study(database).completed_by == "quiet_period"
