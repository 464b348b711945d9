"""Metrics: what the database holds is what Prometheus reads.

Dashboard and rules are the matter of test_monitoring.py, `/metrics` over HTTP of test_health.py.
"""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from dicomnode.observe.metrics import NodeCollector, exposition, registry_of
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import Fact, append
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, DestinationRow, JobRow, ResultRow, StudyRow
from dicomnode.records.watch_tables import PeerCheckRow
from dicomnode.settings.node import Settings
from tests.dicomnode.parts import PATIENT, arrival, image, settings_in
from tests.real_parts import require_program

pytestmark = pytest.mark.both_databases

AUDIT = Audit("test")


@pytest.fixture
def collector(settings: Settings, database: Database) -> NodeCollector:
    return NodeCollector(settings, database, "c0ffee")


def scrape(collector: NodeCollector) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    text = exposition(registry_of(collector)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(collector: NodeCollector, name: str, **labels: str) -> float:
    return scrape(collector)[name, frozenset(labels.items())]


def add_job(database: Database, state: str, age_s: float = 0.0, number: int = 1) -> int:
    with database.transaction() as session:
        if session.get(StudyRow, "1.2.3.4") is None:
            now = utc_now()
            session.add(
                StudyRow(
                    study_instance_uid="1.2.3.4", state="routed", patient_id=PATIENT["PatientID"],
                    accession_number=PATIENT["AccessionNumber"], calling_ae_title="PACS",
                    first_received_at=now - timedelta(seconds=100),
                    last_received_at=now - timedelta(seconds=90),
                )
            )  # fmt: skip
            session.flush()
        at = utc_now() - timedelta(seconds=age_s)
        job = JobRow(
            study_instance_uid="1.2.3.4", series_instance_uid="1.2", generation=1, route="r",
            destinations={}, model="m", model_digest="d", input_digest=str(number), notes={}, priority=0,
            not_before=at, created_at=at, state=state,
        )  # fmt: skip
        session.add(job)
        session.flush()
        return job.id


def add_delivery(database: Database, state: str, age_s: float, number: int = 1, attempt: int = 0) -> None:
    job_id = add_job(database, "succeeded", age_s, number)
    at = utc_now() - timedelta(seconds=age_s)
    with database.transaction() as session:
        session.add(
            ResultRow(
                sop_instance_uid=f"9.{number}", job_id=job_id, kind="seg", sop_class_uid="1",
                study_instance_uid="1.2.3.4", series_instance_uid="1.9", instance_number=1, sha256="s",
                path="p", created_at=at,
            )
        )  # fmt: skip
        session.flush()
        session.add(
            DeliveryRow(
                sop_instance_uid=f"9.{number}", job_id=job_id, destination="PACS", state=state,
                attempt=attempt, not_before=at, delivered_at=at if state == "delivered" else None,
            )
        )  # fmt: skip


def test_every_state_has_a_figure_even_when_nothing_is_in_it(collector: NodeCollector) -> None:
    found = scrape(collector)
    assert found["dicomnode_studies", frozenset({("state", "parked")})] == 0
    assert found["dicomnode_jobs", frozenset({("state", "failed")})] == 0
    dead = frozenset({("state", "dead"), ("destination", "PACS")})
    assert found["dicomnode_deliveries", dead] == 0
    assert found["dicomnode_oldest_seconds", frozenset({("queue", "queued_jobs")})] == 0


def test_states_and_ages_are_those_of_the_database(collector: NodeCollector, database: Database) -> None:
    add_job(database, "queued", age_s=600, number=1)
    add_job(database, "queued", age_s=30, number=2)
    add_job(database, "failed", number=3)
    add_delivery(database, "waiting", age_s=120, number=4, attempt=7)
    add_delivery(database, "delivered", age_s=50, number=5)
    assert value(collector, "dicomnode_jobs", state="queued") == 2
    assert value(collector, "dicomnode_jobs", state="failed") == 1
    assert value(collector, "dicomnode_oldest_seconds", queue="queued_jobs") == pytest.approx(600, abs=60)
    waiting = value(collector, "dicomnode_oldest_seconds", queue="waiting_deliveries")
    assert waiting == pytest.approx(120, abs=60)
    assert value(collector, "dicomnode_deliveries", destination="PACS", state="delivered") == 1
    assert value(collector, "dicomnode_destination_attempts", destination="PACS") == 7
    last = value(collector, "dicomnode_destination_last_success_timestamp_seconds", destination="PACS")
    assert last == pytest.approx(utc_now().timestamp() - 50, abs=60)


def test_a_study_that_receives_has_an_age(
    collector: NodeCollector, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    with database.transaction() as session:
        study = session.scalars(select(StudyRow)).one()
        study.first_received_at -= timedelta(seconds=300)
    assert value(collector, "dicomnode_studies", state="receiving") == 1
    age = value(collector, "dicomnode_oldest_seconds", queue="receiving_studies")
    assert age == pytest.approx(300, abs=60)
    assert value(collector, "dicomnode_instances_total") == 1
    assert value(collector, "dicomnode_events_total", event="instance_received") == 1


def test_durations_are_counted_once_from_the_start_of_the_process(
    settings: Settings, database: Database
) -> None:
    def stage(seconds: float) -> None:
        with database.transaction() as session:
            AUDIT.record(session, Event.STAGE_FINISHED, Subject(), stage="segment", duration_s=seconds)

    stage(100.0)
    collector = NodeCollector(settings, database, "")
    stage(0.3)
    stage(2.0)
    for _ in range(2):  # a second scrape counts nothing twice
        assert value(collector, "dicomnode_stage_seconds_count", stage="segment") == 2
    stage(2000.0)
    assert value(collector, "dicomnode_stage_seconds_sum", stage="segment") == pytest.approx(2002.3)
    assert value(collector, "dicomnode_stage_seconds_bucket", stage="segment", le="0.5") == 1
    assert value(collector, "dicomnode_stage_seconds_bucket", stage="segment", le="900.0") == 2
    assert value(collector, "dicomnode_stage_seconds_bucket", stage="segment", le="+Inf") == 3


def test_an_event_of_a_newer_version_is_counted_by_its_word(
    collector: NodeCollector, database: Database
) -> None:
    value(collector, "dicomnode_events_total", event="job_failed")
    with database.transaction() as session:
        append(session, Fact(utc_now(), "moon_risen", "x", None, None, None, None, {}))
    assert value(collector, "dicomnode_events_total", event="moon_risen") == 1


def test_the_turnaround_runs_from_the_last_image_to_the_delivery(
    collector: NodeCollector, database: Database
) -> None:
    add_delivery(database, "delivered", age_s=0)
    with database.transaction() as session:
        detail = {"destination": "PACS", "kind": "seg", "status": "0000", "attempt": 1}
        AUDIT.record(session, Event.RESULT_DELIVERED, Subject("1.2.3.4"), **detail)
    assert value(collector, "dicomnode_turnaround_seconds_count") == 1
    assert value(collector, "dicomnode_turnaround_seconds_sum") == pytest.approx(90, abs=60)


def test_build_disk_and_peers(collector: NodeCollector, database: Database) -> None:
    now = utc_now()
    with database.transaction() as session:
        session.add(PeerCheckRow(peer="PACS", checked_at=now, answered_at=now))
        session.add(PeerCheckRow(peer="OTHER", checked_at=now, failing_since=now, problem="down"))
    found = scrape(collector)
    assert found["dicomnode_disk_free_bytes", frozenset()] > 1e6
    assert found["dicomnode_disk_minimum_free_bytes", frozenset()] == 0.0
    assert found["dicomnode_peer_up", frozenset({("peer", "PACS")})] == 1
    assert found["dicomnode_peer_up", frozenset({("peer", "OTHER")})] == 0
    (build,) = [dict(labels) for name, labels in found if name == "dicomnode_build_info"]
    assert build["configuration_sha256"] == "c0ffee"


def test_breakers_and_the_check_of_the_trail(collector: NodeCollector, database: Database) -> None:
    assert ("dicomnode_audit_faults", frozenset()) not in scrape(collector)
    with database.transaction() as session:
        session.add(DestinationRow(name="PACS", state="open"))
        detail = {"event_count": 5, "anchor_count": 0, "fault_count": 2, "broken_at": 3}
        AUDIT.record(session, Event.AUDIT_VERIFIED, Subject(), **detail)
    assert value(collector, "dicomnode_destination_breaker", destination="PACS", state="open") == 1
    assert value(collector, "dicomnode_destination_breaker", destination="PACS", state="closed") == 0
    assert value(collector, "dicomnode_audit_faults") == 2
    verified = value(collector, "dicomnode_audit_verified_timestamp_seconds")
    assert verified == pytest.approx(utc_now().timestamp(), abs=60)


def test_metrics_hold_no_patient_data(collector: NodeCollector, intake: Intake) -> None:
    intake.take(arrival(image()))
    text = exposition(registry_of(collector)).decode()
    assert "1.2.3.4" not in text
    for word in PATIENT.values():
        assert word not in text


@pytest.mark.real_parts
def test_promtool_finds_nothing_to_complain_of(collector: NodeCollector) -> None:
    checked = subprocess.run(
        [require_program("promtool"), "check", "metrics"], input=exposition(registry_of(collector)),
        capture_output=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr.decode()) == (0, "")


def test_the_lag_of_each_syslog_receiver_is_told(tmp_path: Path, database: Database) -> None:
    target = '[[audit.syslog]]\nname = "siem"\nhost = "127.0.0.1"\nport = 6514\n'
    collector = NodeCollector(settings_in(tmp_path, target), database, "c0ffee")
    assert value(collector, "dicomnode_syslog_lag_events", target="siem") == 0
    with database.transaction() as session:
        AUDIT.record(session, Event.STUDY_REPLAYED, Subject("1.2"))
    assert value(collector, "dicomnode_syslog_lag_events", target="siem") == 1
    assert 0 < value(collector, "dicomnode_syslog_lag_seconds", target="siem") < 60
