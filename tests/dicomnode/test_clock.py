"""The clock of the machine is set back by a year, or forward: nothing waits for it, nothing is lost.

Not covered: the peers' clocks, and certificates.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

import dicomnode.records.audit
from dicomnode.assemble.assembly import Assembly
from dicomnode.observe import trail
from dicomnode.receive.intake import Intake
from dicomnode.records import anchoring
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.clock import pull_back
from dicomnode.records.commitment_tables import CommitmentReportRow
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, DestinationRow, JobRow, ResultRow, StudyRow
from dicomnode.settings.node import Settings
from tests.dicomnode.parts import arrival, events, image, kinds

pytestmark = pytest.mark.both_databases

YEAR = timedelta(days=365)


@pytest.fixture
def a_year_ago(settings: Settings, database: Database, intake: Intake) -> None:
    """Everything that waits, as it was written down before the clock was set back by a year."""
    intake.take(arrival(image()))
    then = utc_now() + YEAR
    common = {"generation": 1, "route": "r", "destinations": {}, "model": "m", "model_digest": "d",
              "notes": {}, "priority": 0, "created_at": then, "ranked_at": then}  # fmt: skip
    with database.transaction() as session:
        study = session.scalars(select(StudyRow)).one()
        study.first_received_at = study.last_received_at = then
        for number, state in enumerate(("queued", "running")):
            session.add(
                JobRow(
                    study_instance_uid=study.study_instance_uid, series_instance_uid=f"1.{number}",
                    input_digest="i", state=state, not_before=then, lease_expires_at=then, **common,
                )
            )  # fmt: skip
        session.flush()
        for uid, state in (("1.9", "waiting"), ("1.10", "stored")):
            session.add(
                ResultRow(
                    sop_instance_uid=uid, job_id=1, kind="seg", sop_class_uid="1.2", sha256="s", path="p",
                    study_instance_uid=study.study_instance_uid, series_instance_uid="1.8", instance_number=1,
                    created_at=then,
                )
            )  # fmt: skip
            session.flush()
            session.add(
                DeliveryRow(sop_instance_uid=uid, job_id=1, destination="PACS", state=state, not_before=then)
            )
        session.add(
            CommitmentReportRow(
                peer="PACS", transaction_uid="1.2", referenced={"instances": []}, asked_at=then,
                state="waiting", not_before=then,
            )
        )  # fmt: skip
        session.add(DestinationRow(name="PACS", state="open", failures=3, not_before=then))


@pytest.mark.usefixtures("a_year_ago")
def test_a_clock_that_was_set_back_leaves_nothing_waiting(settings: Settings, database: Database) -> None:
    pull_back(settings, database, Audit("housekeeping"))
    with database.snapshot() as session:
        times = [
            *session.scalars(select(StudyRow.last_received_at)),
            *session.scalars(select(JobRow.not_before).where(JobRow.state == "queued")),
            *session.scalars(select(DeliveryRow.not_before)),
            *session.scalars(select(CommitmentReportRow.not_before)),
            *session.scalars(select(DestinationRow.not_before)),
        ]
    assert len(times) == 6
    assert all(time <= utc_now() for time in times)
    assert sum(events(database, "clock_set_back")[0][1]["pulled_back"].values()) == 8
    pull_back(settings, database, Audit("housekeeping"))
    assert kinds(database).count("clock_set_back") == 1


@pytest.mark.usefixtures("a_year_ago")
def test_a_job_that_runs_while_the_clock_is_set_back_keeps_its_lease(
    settings: Settings, database: Database
) -> None:
    begin = utc_now()
    pull_back(settings, database, Audit("housekeeping"))
    with database.snapshot() as session:
        expires = session.scalars(select(JobRow.lease_expires_at).where(JobRow.state == "running")).one()
    assert expires is not None
    assert timedelta() <= expires - begin - timedelta(seconds=settings.worker.lease_s) <= utc_now() - begin


def test_a_clock_that_was_ahead_silences_neither_the_anchor_nor_the_daily_check(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit("housekeeping")
    with monkeypatch.context() as ahead:
        for module in (anchoring, dicomnode.records.audit, trail):
            ahead.setattr(module, "utc_now", lambda: utc_now() + YEAR)
        with database.transaction() as session:
            audit.record(session, Event.STUDY_PARKED, Subject("1.2.3.4"), reason="x")
        assert anchoring.anchor_of_the_day(database, audit, settings.anchors, None)
        trail.verify_daily(settings, database, audit)
    assert anchoring.anchor_of_the_day(database, audit, settings.anchors, None)
    trail.verify_daily(settings, database, audit)
    checks = [detail["fault_count"] for _, detail in events(database, "audit_verified")]
    assert checks == [0, 0]
    with database.snapshot() as session:
        latest = trail.latest_check(session)
    assert latest is not None and latest.at <= utc_now()


def test_what_waits_as_it_should_is_left_alone(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    with database.transaction() as session:
        later = utc_now() + timedelta(seconds=settings.delivery.longest_delay_s)
        session.add(DestinationRow(name="PACS", state="open", failures=3, not_before=later))
    pull_back(settings, database, Audit("housekeeping"))
    assert "clock_set_back" not in kinds(database)


def test_a_clock_that_was_set_forward_closes_a_study_early_and_a_late_image_opens_it_again(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    with database.transaction() as session:
        session.scalars(select(StudyRow)).one().last_received_at = utc_now() - YEAR
    Assembly(settings, database).close_complete_studies()
    intake.take(arrival(image()))
    assert kinds(database)[-2:] == ["study_reopened", "instance_received"]
