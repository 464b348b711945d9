"""Whatever somebody has in hand leads to the study, and pages show every row once.

Not covered: how fast it is with a full database; the stage `pages` of `make bench` shows that.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.events import (
    EventFilter,
    Outcome,
    event_page,
    events_in_order,
    events_with,
    outcome_of,
)
from dicomnode.records.lookup import (
    Named,
    StudyCursor,
    StudyFilter,
    events_about,
    find,
    find_one,
    study_page,
)
from dicomnode.records.tables import JobRow, ResultRow, StudyRow
from tests.dicomnode.parts import arrival, image

pytestmark = pytest.mark.both_databases

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def study_row(uid: str, at: datetime = NOON, **values: object) -> StudyRow:
    given = {"patient_id": "P", "accession_number": "A", "calling_ae_title": "PACS", "state": "receiving"}
    return StudyRow(study_instance_uid=uid, first_received_at=at, last_received_at=at, **(given | values))


def job_row(study_uid: str, series_uid: str, model: str = "m", digest: str = "d") -> JobRow:
    return JobRow(
        study_instance_uid=study_uid,
        series_instance_uid=series_uid,
        generation=1,
        route="r",
        destinations={"names": []},
        model=model,
        model_digest=digest,
        input_digest="i",
        notes={"lines": []},
        priority=0,
        not_before=NOON,
        created_at=NOON,
    )


@pytest.fixture
def job_id(database: Database, intake: Intake) -> int:
    """Two series of one study, a job of the first with a result, and another study."""
    intake.take(arrival(image(SOPInstanceUID="1.2.3.4.5.1")))
    intake.take(arrival(image(SOPInstanceUID="1.2.3.4.5.2")))
    intake.take(arrival(image(SeriesInstanceUID="1.2.3.4.6", SOPInstanceUID="1.2.3.4.6.1")))
    intake.take(arrival(image(StudyInstanceUID="9.9", SeriesInstanceUID="9.9.1", AccessionNumber="1")))
    with database.transaction() as session:
        job = job_row("1.2.3.4", "1.2.3.4.5")
        session.add(job)
        session.flush()
        session.add(
            ResultRow(
                sop_instance_uid="2.25.1",
                job_id=job.id,
                kind="seg",
                sop_class_uid="1",
                study_instance_uid="1.2.3.4",
                series_instance_uid="2.25.2",
                instance_number=1,
                sha256="0",
                path="x",
                created_at=NOON,
            )
        )
        audit = Audit("test")
        audit.record(session, Event.STUDY_COMPLETED, Subject("1.2.3.4"))
        audit.record(session, Event.JOB_STARTED, Subject.of_job(job))
        audit.record(session, Event.RESULT_CREATED, Subject("1.2.3.4", "2.25.2", "2.25.1", job.id))
        audit.record(session, Event.INSTANCE_REFUSED, Subject(sop_instance_uid="7.7.7"))
        return job.id


@pytest.mark.parametrize(
    ("identifier", "named"),
    [
        ("1.2.3.4", Named.STUDY),
        ("1.2.3.4.5", Named.SERIES),
        ("2.25.2", Named.SERIES),
        ("1.2.3.4.6.1", Named.INSTANCE),
        ("2.25.1", Named.RESULT),
        ("ACC-90210", Named.ACCESSION_NUMBER),
        (" ACC-90210\n", Named.ACCESSION_NUMBER),
    ],
)
def test_an_identifier_is_recognised_and_leads_to_its_study(
    database: Database, job_id: int, identifier: str, named: Named
) -> None:
    with database.snapshot() as session:
        hit = find_one(session, identifier)
    assert hit.named is named
    assert hit.study is not None
    assert hit.study.study_instance_uid == "1.2.3.4"


def test_a_number_may_be_a_job_and_an_accession_number(database: Database, job_id: int) -> None:
    with database.snapshot() as session:
        assert [(hit.named, hit.subject.study_instance_uid) for hit in find(session, str(job_id))] == [
            (Named.JOB, "1.2.3.4"),
            (Named.ACCESSION_NUMBER, "9.9"),
        ]
        assert find_one(session, str(job_id), Named.JOB).subject.job_id == job_id
        with pytest.raises(PermanentError, match=r"names 2 things \(accession_number, job\)"):
            find_one(session, str(job_id))


def test_a_patient_id_names_all_studies_of_the_patient(database: Database, job_id: int) -> None:
    with database.snapshot() as session:
        hits = find(session, "PAT-77431")
    assert [hit.subject.study_instance_uid for hit in hits] == ["9.9", "1.2.3.4"]
    assert {hit.named for hit in hits} == {Named.PATIENT_ID}


@pytest.mark.parametrize("identifier", ["", " ", "nothing", "9" * 40, "²", "' OR 1=1 --", "%", "1.2.3.%"])
def test_what_names_nothing_finds_nothing(database: Database, job_id: int, identifier: str) -> None:
    with database.snapshot() as session:
        assert find(session, identifier) == []
        with pytest.raises(PermanentError, match="nothing is known"):
            find_one(session, identifier)


def told(database: Database, identifier: str, named: Named | None = None) -> list[str]:
    with database.snapshot() as session:
        return [row.event for row in events_about(session, find_one(session, identifier, named))]


def test_the_story_of_a_part_leaves_out_other_parts_of_the_study(database: Database, job_id: int) -> None:
    received, job = ["instance_received"], ["job_started", "result_created"]
    assert told(database, "1.2.3.4") == [*received * 3, "study_completed", *job]
    assert told(database, "1.2.3.4.5") == [*received * 2, "study_completed", *job]
    assert told(database, "1.2.3.4.6") == [*received, "study_completed"]
    assert told(database, "1.2.3.4.5.1") == [*received, "study_completed", *job]
    assert told(database, str(job_id), Named.JOB) == [*received * 2, "study_completed", *job]


def test_the_story_of_a_result_is_that_of_the_job_that_made_it(database: Database, job_id: int) -> None:
    assert told(database, "2.25.1") == ["study_completed", "job_started", "result_created"]


def test_a_refused_instance_is_found_though_it_belongs_to_no_study(database: Database, job_id: int) -> None:
    assert told(database, "7.7.7") == ["instance_refused"]


def test_pages_of_studies_show_each_once_even_when_times_are_equal(database: Database) -> None:
    with database.transaction() as session:
        session.add_all(study_row(f"1.{n}", NOON + timedelta(minutes=n // 3)) for n in range(10))
    seen, after = [], None
    with database.snapshot() as session:
        while page := study_page(session, StudyFilter(), after, 4):
            seen += [study.study_instance_uid for study in page]
            after = StudyCursor.parse(str(StudyCursor.behind(page[-1])))
    assert len(seen) == 10
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("place", ["", "x", "20260301T120000.000000", "a_b"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(PermanentError, match="begin at its top"):
        StudyCursor.parse(place)


def test_studies_are_filtered(database: Database) -> None:
    with database.transaction() as session:
        session.add_all(
            [
                study_row("1.1", NOON, state="parked"),
                study_row("1.2", NOON + timedelta(hours=1), calling_ae_title="CT1"),
                study_row("1.3", NOON + timedelta(hours=2)),
            ]
        )

    def found(wanted: StudyFilter) -> list[str]:
        with database.snapshot() as session:
            return [study.study_instance_uid for study in study_page(session, wanted)]

    assert found(StudyFilter(state="parked")) == ["1.1"]
    assert found(StudyFilter(calling_ae_title="CT1")) == ["1.2"]
    assert found(StudyFilter(since=NOON, until=NOON + timedelta(hours=2))) == ["1.2", "1.1"]


def test_events_are_filtered_and_paged(database: Database) -> None:
    audit = Audit("test")
    with database.transaction() as session:
        session.add(study_row("1"))
        session.flush()
        job, other = job_row("1", "1.1"), job_row("1", "1.2", model="other")
        session.add_all([job, other])
        session.flush()
        audit.record(session, Event.INSTANCE_RECEIVED, Subject("1"), calling_ae_title="CT1")
        audit.record(session, Event.JOB_FAILED, Subject("1", job_id=job.id), reason="x")
        audit.record(session, Event.RESULT_DELIVERED, Subject("1", job_id=other.id), destination="PACS")
        audit.record(session, Event.DELIVERY_DEAD, Subject("1", job_id=job.id), destination="PACS")

    def found(wanted: EventFilter, before: int | None = None, limit: int = 50) -> list[int]:
        with database.snapshot() as session:
            return [row.id for row in event_page(session, wanted, before, limit)]

    assert found(EventFilter()) == [4, 3, 2, 1]
    assert found(EventFilter(), before=3, limit=1) == [2]
    assert found(EventFilter(events=events_with(Outcome.SERIOUS_FAILURE))) == [4, 2]
    assert found(EventFilter(events=events_with(Outcome.SERIOUS_FAILURE)), before=4) == [2]
    assert found(EventFilter(peer="PACS")) == [4, 3]
    assert found(EventFilter(peer="CT1")) == [1]
    assert found(EventFilter(model="m")) == [4, 2]
    assert found(EventFilter(until=utc_now())) == [4, 3, 2, 1]
    assert found(EventFilter(since=utc_now())) == []
    with pytest.raises(PermanentError, match="there is no event 99"):
        found(EventFilter(), before=99)


ACTORS = (
    "receiver", "worker cuda:0", "web m.keller", "admin m.keller", "admin root (logged in as m.keller)",
    "web m.keller2", "admin root", "serve",
)  # fmt: skip


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("m.keller", [2, 3, 4]),
        ("root", [4, 6]),
        ("web m.keller", [2]),
        ("serve", [7]),
        ("receiver", [0]),
        ("worker cuda:0", [1]),
        ("keller", []),
        ("cuda:0", []),
        ("' OR 1=1 --", []),
        ("%", []),
    ],
)
def test_what_a_person_did_is_found_however_they_came(
    database: Database, who: str, expected: list[int]
) -> None:
    with database.transaction() as session:
        for actor in ACTORS:
            Audit(actor).record(session, Event.AUDIT_READ, Subject(), command="list", study_count=0)
    failures = frozenset(Event) - {Event.AUDIT_READ}
    with database.snapshot() as session:
        found = [row.actor for row in event_page(session, EventFilter(who=who))]
        assert found == [ACTORS[number] for number in reversed(expected)]
        assert [row.actor for row in events_in_order(session, EventFilter(who=who))] == found[::-1]
        assert event_page(session, EventFilter(who=who, events=failures)) == []


def test_a_busy_model_is_searched_in_another_way_with_the_same_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.transaction() as session:
        session.add(study_row("1"))
        session.flush()
        jobs = [job_row("1", f"1.{n}", model="busy" if n % 2 else "idle") for n in range(6)]
        session.add_all(jobs)
        session.flush()
        for job in jobs:
            Audit("test").record(session, Event.JOB_REPLAYED, Subject.of_job(job))
    monkeypatch.setattr("dicomnode.records.events.FEW_JOBS", 2)
    with database.snapshot() as session:
        found = event_page(session, EventFilter(model="busy"))
    assert [row.job_id for row in found] == [job.id for job in jobs if job.model == "busy"][::-1]


def test_a_failure_is_told_from_a_success() -> None:
    assert outcome_of(Event.RESULT_DELIVERED) is Outcome.SUCCESS
    assert outcome_of(Event.DELIVERY_RETRIED) is Outcome.MINOR_FAILURE
    assert outcome_of(Event.JOB_FAILED) is Outcome.SERIOUS_FAILURE


def test_the_peer_of_an_event_cannot_be_written(database: Database) -> None:
    with pytest.raises(Exception, match="generated column"), database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO audit_events (at, event, actor, detail, previous_sha256, sha256, peer)"
                 " VALUES ('2026-01-01', 'x', 'x', '{}', '', '', 'forged')")
        )  # fmt: skip
