"""The audit trail cannot be changed unnoticed, keeps one chain, and can be told in sentences.

Not covered: cutting off the newest events, which no chain alone shows; that is `test_anchors.py`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dicomnode.errors import UnreadableSeries
from dicomnode.export.fhir import audit_event
from dicomnode.records.audit import Audit, Event, Stage, Subject
from dicomnode.records.chain import GENESIS, seal, verify_chain
from dicomnode.records.db import Database
from dicomnode.records.events import Outcome, outcome_of
from dicomnode.records.story import SENTENCES, tell
from dicomnode.records.tables import AuditRow
from dicomnode.syslog.meaning import APPLICATION_ACTIVITY, meaning_of
from dicomnode.web.steps import runs_of
from tests.dicomnode.parts import events
from tests.dicomnode.tampering import tamper

pytestmark = pytest.mark.both_databases


def record(database: Database, count: int = 5) -> None:
    for number in range(count):
        with database.transaction() as session:
            Audit("test").record(session, Event.NODE_STARTED, Subject("1.2"), number=number, share=0.1)


def test_a_trail_that_nobody_touched_holds(database: Database) -> None:
    record(database, 7)
    with database.snapshot() as session:
        check = verify_chain(session)
    assert (check.event_count, check.broken_at) == (7, None)
    assert check.last_at is not None


def test_an_empty_trail_holds(database: Database) -> None:
    with database.snapshot() as session:
        assert verify_chain(session).broken_at is None


def test_the_first_event_follows_nothing(database: Database) -> None:
    record(database, 1)
    with database.snapshot() as session:
        assert session.get_one(AuditRow, 1).previous_sha256 == GENESIS


REPLACEMENT = (
    "INSERT OR REPLACE INTO audit_events (id, at, event, actor, detail, previous_sha256, sha256)"
    " VALUES (1, '2026-01-01', 'x', 'x', '{}', '', '')"
)


def test_the_database_itself_refuses_to_change_an_event(database: Database, store: str) -> None:
    record(database)
    for statement in (
        "UPDATE audit_events SET actor = 'x'",
        "DELETE FROM audit_events",
        {"sqlite": REPLACEMENT, "postgresql": "TRUNCATE audit_events"}[store],
    ):
        with pytest.raises(DBAPIError, match="append-only"), database.engine.begin() as connection:
            connection.execute(text(statement))
    assert len(events(database)) == 5


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "'somebody'"),
        ("event", "'job_failed'"),
        ("at", "'2020-01-01 00:00:00.000000'"),
        ("detail", """'{"number": 2, "share": 0.2}'"""),
        ("study_instance_uid", "'1.3'"),
        ("series_instance_uid", "'1.3'"),
        ("sop_instance_uid", "'1.3'"),
        ("job_id", "4"),
        ("previous_sha256", f"'{GENESIS}'"),
        ("sha256", f"'{GENESIS}'"),
    ],
)
def test_a_changed_event_is_found_where_it_is(database: Database, column: str, value: str) -> None:
    record(database)
    tamper(database, f"UPDATE audit_events SET {column} = {value} WHERE id = 3")
    with database.snapshot() as session:
        check = verify_chain(session)
    assert (check.broken_at, check.event_count) == (3, 5)
    assert "event 3" in check.faults[0].told


def test_every_changed_event_is_told_of(database: Database) -> None:
    record(database, 7)
    tamper(database, "UPDATE audit_events SET actor = 'x' WHERE id IN (2, 6)")
    with database.snapshot() as session:
        check = verify_chain(session)
    assert [(fault.damage, fault.event_id) for fault in check.faults] == [("changed", 2), ("changed", 6)]


def test_an_event_that_was_rewritten_with_its_seal_is_found_at_the_next(database: Database) -> None:
    record(database)
    with database.snapshot() as session:
        row = session.get_one(AuditRow, 3)
    row.actor = "somebody"
    tamper(database, f"UPDATE audit_events SET actor = 'somebody', sha256 = '{seal(row)}' WHERE id = 3")
    with database.snapshot() as session:
        (fault,) = verify_chain(session).faults
    assert (fault.damage, fault.event_id) == ("unlinked", 4)


def test_several_events_of_one_transaction_are_chained_in_their_order(database: Database) -> None:
    with database.transaction() as session:
        for number in range(3):
            Audit("test").record(session, Event.NODE_STARTED, Subject(), number=number)
    assert [detail["number"] for _, detail in events(database)] == [0, 1, 2]
    with database.snapshot() as session:
        assert verify_chain(session).faults == ()


@pytest.mark.parametrize("removed", [1, 3])
def test_a_removed_event_is_found_at_the_one_that_follows(database: Database, removed: int) -> None:
    record(database)
    tamper(database, f"DELETE FROM audit_events WHERE id = {removed}")
    with database.snapshot() as session:
        assert verify_chain(session).broken_at == removed + 1


def test_an_event_of_a_transaction_that_failed_was_never_there(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction() as session:
        Audit("test").record(session, Event.NODE_STARTED, Subject())
        raise RuntimeError
    assert events(database) == []


def test_numbers_have_no_gap_where_a_transaction_failed_after_its_events_were_numbered(
    database: Database,
) -> None:
    def fail(session: Session) -> None:
        session.execute(text("no statement of SQL"))

    record(database, 2)
    for _ in range(3):
        with pytest.raises(DBAPIError), database.transaction() as session:
            Audit("test").record(session, Event.NODE_STARTED, Subject("1.2"))
            listen(session, "before_commit", fail)
    record(database, 2)
    with database.snapshot() as session:
        assert list(session.scalars(select(AuditRow.id).order_by(AuditRow.id))) == [1, 2, 3, 4]
        assert verify_chain(session).faults == ()


def test_threads_keep_one_chain(database: Database) -> None:
    threads = [threading.Thread(target=record, args=(database, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.snapshot() as session:
        check = verify_chain(session)
    assert (check.event_count, check.broken_at) == (40, None)


WRITER = """
import sys
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
database = Database(sys.argv[1])
for number in range(20):
    with database.transaction() as session:
        Audit("process").record(session, Event.NODE_STARTED, Subject(), number=number)
"""


def test_processes_keep_one_chain(database: Database) -> None:
    command = [sys.executable, "-c", WRITER, database.engine.url.render_as_string()]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with database.snapshot() as session:
        check = verify_chain(session)
    assert (check.event_count, check.broken_at) == (40, None)


def test_a_stage_that_ends_is_timed(database: Database) -> None:
    with Audit("worker").stage(database, Subject("1.2", job_id=1), Stage.READ):
        pass
    ((event, detail),) = events(database)
    assert event == "stage_finished"
    assert detail["stage"] == "read"
    assert 0 <= detail["duration_s"] < 60


def test_a_stage_that_fails_for_a_known_reason_keeps_the_reason(database: Database) -> None:
    with pytest.raises(UnreadableSeries), Audit("w").stage(database, Subject("1.2", job_id=1), Stage.READ):
        raise UnreadableSeries("two slices at one place")
    ((event, detail),) = events(database)
    assert event == "stage_failed"
    assert detail["error"] == "UnreadableSeries: two slices at one place"


def test_a_stage_that_fails_by_a_bug_keeps_no_text_that_could_hold_patient_data(database: Database) -> None:
    with (
        pytest.raises(ValueError, match="Zebrowska"),
        Audit("w").stage(database, Subject(job_id=1), Stage.READ),
    ):
        raise ValueError("cannot parse 'Zebrowska^Hildegard'")
    ((_, detail),) = events(database)
    assert detail["error"] == "ValueError"


def test_the_log_of_a_role_names_the_events_that_were_committed(
    database: Database, logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.logs._role", "work")
    with pytest.raises(RuntimeError), database.transaction() as session:
        Audit("test").record(session, Event.JOB_FAILED, Subject("1.2", job_id=3), reason="x")
        raise RuntimeError
    with database.transaction() as session:
        Audit("test").record(session, Event.JOB_REPLAYED, Subject("1.2", "1.2.3", job_id=3))
    assert logs == [
        {
            "event": "audited",
            "log_level": "info",
            "audit_event": "job_replayed",
            "event_id": 1,
            "study_instance_uid": "1.2",
            "series_instance_uid": "1.2.3",
            "job_id": 3,
        }
    ]


def test_every_event_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Event)


def row(event: Event, detail: dict[str, Any], actor: str = "a", job_id: int | None = None) -> AuditRow:
    return AuditRow(at=datetime.now(UTC), event=event.value, actor=actor, job_id=job_id, detail=detail)


def test_equal_events_in_a_row_are_told_once_with_their_number() -> None:
    received = row(Event.INSTANCE_RECEIVED, {"calling_ae_title": "PACS"})
    again = row(Event.INSTANCE_REPEATED, {"calling_ae_title": "PACS"})
    lines = tell([received, received, received, again, received])
    assert [line.count for line in lines] == [3, 1, 1]
    assert lines[0].sentence == "instance received from PACS"


def test_an_event_of_a_newer_version_is_told_by_its_word() -> None:
    newer = AuditRow(at=datetime.now(UTC), event="moon_risen", actor="a", detail={}, sha256="ab")
    assert [line.sentence for line in tell([newer])] == ["moon risen (an event of a newer version)"]
    assert outcome_of(newer.event) is Outcome.SUCCESS
    assert meaning_of(newer.event).event_id is APPLICATION_ACTIVITY
    assert audit_event(newer)["subtype"][0]["code"] == "moon_risen"
    assert runs_of([newer]) == []


def test_equal_events_of_different_jobs_or_actors_are_told_apart() -> None:
    detail = {"reason": "x"}
    rows = [row(Event.JOB_FAILED, detail, "a", 1), row(Event.JOB_FAILED, detail, "a", 2)]
    assert len(tell(rows)) == 2
    rows = [row(Event.JOB_FAILED, detail, "a", 1), row(Event.JOB_FAILED, detail, "b", 1)]
    assert len(tell(rows)) == 2
