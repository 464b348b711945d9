"""What becomes of one received instance, on disk and in the database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake, Outcome
from dicomnode.records.db import Database
from dicomnode.records.instances import stored_instances
from dicomnode.records.known import KnownInstances
from dicomnode.records.states import StudyState
from dicomnode.records.tables import InstanceRow, StudyRow
from dicomnode.spool import Spool
from tests.dicomnode.parts import arrival, events, image, kinds, own_result, read

pytestmark = pytest.mark.both_databases

STUDY = "1.2.3.4"


def study(database: Database) -> StudyRow:
    with database.snapshot() as session:
        return session.get_one(StudyRow, STUDY)


def rows(database: Database) -> list[InstanceRow]:
    with database.snapshot() as session:
        return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


def set_state(database: Database, state: StudyState) -> None:
    with database.transaction() as session:
        session.get_one(StudyRow, STUDY).state = state.value


def files(spool: Spool) -> list[Path]:
    return [path for path in spool.folder.rglob("*") if path.is_file()]


def test_a_new_instance_is_on_disk_recorded_and_audited(intake: Intake, database: Database) -> None:
    sent = image()
    assert intake.take(arrival(sent)) is Outcome.NEW
    (row,) = rows(database)
    assert read(Path(row.path)).PatientName == sent.PatientName
    assert (row.version, row.own_result, row.calling_ae_title) == (1, False, "PACS")
    assert row.size_bytes == len(arrival(sent).encoded)
    assert study(database).state == "receiving"
    assert kinds(database) == ["instance_received"]


def test_the_same_content_again_makes_no_new_row_and_is_no_activity(
    intake: Intake, database: Database
) -> None:
    sent = image()
    intake.take(arrival(sent))
    before = study(database)
    assert intake.take(arrival(sent)) is Outcome.REPEATED
    assert len(rows(database)) == 1
    assert study(database).last_received_at == before.last_received_at
    assert kinds(database) == ["instance_received", "instance_repeated"]


def test_a_file_that_was_lost_is_written_again_when_it_is_sent_again(
    intake: Intake, database: Database
) -> None:
    sent = image()
    intake.take(arrival(sent))
    path = Path(rows(database)[0].path)
    path.unlink()
    assert intake.take(arrival(sent)) is Outcome.REPEATED
    assert path.is_file()


def test_other_content_under_the_same_uid_is_a_new_version_and_both_are_kept(
    intake: Intake, database: Database
) -> None:
    sent = image()
    intake.take(arrival(sent))
    sent.SeriesDescription = "Corrected"
    assert intake.take(arrival(sent)) is Outcome.ALTERED
    first, second = rows(database)
    assert (first.version, second.version) == (1, 2)
    assert read(Path(first.path)).SeriesDescription == "Thorax"
    assert read(Path(second.path)).SeriesDescription == "Corrected"
    with database.snapshot() as session:
        assert [row.id for row in stored_instances(session, STUDY)] == [second.id]


def test_an_old_version_sent_again_does_not_become_the_newest(intake: Intake, database: Database) -> None:
    sent = image()
    old = arrival(sent)
    intake.take(old)
    sent.SeriesDescription = "Corrected"
    intake.take(arrival(sent))
    assert intake.take(old) is Outcome.REPEATED
    with database.snapshot() as session:
        assert [row.version for row in stored_instances(session, STUDY)] == [2]


@pytest.mark.parametrize(
    "state", [StudyState.COMPLETE, StudyState.ROUTED, StudyState.IGNORED, StudyState.PARKED]
)
def test_a_late_instance_reopens_the_study_with_a_new_generation(
    intake: Intake, database: Database, state: StudyState
) -> None:
    intake.take(arrival(image()))
    set_state(database, state)
    intake.take(arrival(image()))
    found = study(database)
    assert (found.state, found.generation, found.completed_by) == ("receiving", 2, None)
    assert events(database, "study_reopened") == [("study_reopened", {"generation": 2})]


def test_a_repeated_instance_does_not_reopen_the_study(intake: Intake, database: Database) -> None:
    sent = image()
    intake.take(arrival(sent))
    set_state(database, StudyState.ROUTED)
    intake.take(arrival(sent))
    assert (study(database).state, study(database).generation) == ("routed", 1)


def test_an_altered_instance_reopens_the_study(intake: Intake, database: Database) -> None:
    sent = image()
    intake.take(arrival(sent))
    set_state(database, StudyState.ROUTED)
    sent.SeriesDescription = "Corrected"
    intake.take(arrival(sent))
    assert (study(database).state, study(database).generation) == ("receiving", 2)


def test_our_own_result_is_kept_but_reopens_nothing_and_is_never_input(
    intake: Intake, database: Database
) -> None:
    intake.take(arrival(image()))
    set_state(database, StudyState.ROUTED)
    assert intake.take(arrival(own_result())) is Outcome.OWN_RESULT
    assert (study(database).state, study(database).generation) == ("routed", 1)
    assert [row.own_result for row in rows(database)] == [False, True]
    with database.snapshot() as session:
        assert len(stored_instances(session, STUDY)) == 1
    assert kinds(database)[-1] == "own_result_received"


@pytest.mark.parametrize(
    "keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
def test_an_instance_without_an_identifying_uid_is_refused(
    intake: Intake, spool: Spool, database: Database, keyword: str
) -> None:
    with pytest.raises(PermanentError, match=f"has no {keyword}"):
        intake.take(arrival(image(**{keyword: None})))
    assert files(spool) == []
    assert rows(database) == []


def test_an_instance_that_contradicts_its_request_is_refused(intake: Intake, spool: Spool) -> None:
    with pytest.raises(PermanentError, match="SOPInstanceUID of the data set is not the one"):
        intake.take(arrival(image(), requested_uid="1.2.3.99"))
    with pytest.raises(PermanentError, match="SOPClassUID of the data set is not the one"):
        intake.take(replace(arrival(image()), sop_class_uid="1.2.840.10008.5.1.4.1.1.4"))
    assert files(spool) == []


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"not a data set at all, but some text"])
def test_bytes_that_are_no_data_set_are_refused(intake: Intake, spool: Spool, content: bytes) -> None:
    with pytest.raises(PermanentError):
        intake.take(replace(arrival(image()), encoded=content))
    assert files(spool) == []


@pytest.mark.parametrize("uid", ["../../etc", "1." * 32 + "1", "1/2"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_malicious_uid_touches_no_file(
    intake: Intake, spool: Spool, tmp_path: Path, keyword: str, uid: str
) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PermanentError, match="is not a UID"):
        intake.take(arrival(image(**{keyword: uid})))
    assert files(spool) == []
    assert {path for path in set(tmp_path.rglob("*")) - before if path.suffix == ".dcm"} == set()


def test_when_the_database_fails_nothing_is_recorded_and_the_file_may_stay(
    intake: Intake, spool: Spool, database: Database
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_events RENAME TO gone"))
    with pytest.raises(SQLAlchemyError):
        intake.take(arrival(image()))
    assert rows(database) == []
    assert len(files(spool)) == 1


def test_more_senders_than_the_pool_has_connections_are_answered(database: Database) -> None:
    """Each sender has a thread, which lives as long as its association."""
    known, everybody = KnownInstances(database), threading.Barrier(60)

    def ask(_: int) -> bool:
        everybody.wait(60)
        is_known = "1.2.3" in known
        everybody.wait(60)  # nobody's thread ends before all have an answer
        return is_known

    with ThreadPoolExecutor(60) as senders:
        assert list(senders.map(ask, range(60))) == [False] * 60
