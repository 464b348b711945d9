"""When a study is complete: tables of situations, and the decision against a real database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.event import listen
from sqlalchemy.orm import Session

from dicomnode.assemble import query
from dicomnode.assemble.assembly import Assembly
from dicomnode.assemble.required import required_of
from dicomnode.assemble.rules import (
    CompletedBy,
    Count,
    Progress,
    Required,
    Sender,
    Verdict,
    is_due,
    may_be_over,
    verdict,
)
from dicomnode.errors import TransientError
from dicomnode.receive.arrival import Origin, identify
from dicomnode.receive.behind import mark_behind, mark_up_to_date, recorded_until
from dicomnode.receive.entries import Entry
from dicomnode.receive.intake import Intake
from dicomnode.receive.journal import Journal
from dicomnode.receive.recorder import Recorder
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow, StudyRow
from dicomnode.settings.assembly import AssemblySettings
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool
from dicomnode.study import Study
from tests.dicomnode.parts import arrival, events, image, settings_in

pytestmark = pytest.mark.both_databases

START = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
RULES = AssemblySettings(quiet_period_s=30, deadline_s=600, settle_s=1, count_interval_s=5)
PARKING = RULES.model_copy(update={"incomplete": "park"})
STUDY = "1.2.3.4"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def sender(received: int, expected: int | None = None, asked: float | None = None, name: str = "A") -> Sender:
    return Sender(name, received, None if asked is None else Count(expected, at(asked)))


def progress(
    last: float,
    *senders: Sender,
    required: Required | None = None,
    looked: bool = True,
    recorded: float | None = None,
) -> Progress:
    until = None if recorded is None else at(recorded)
    return Progress(START, at(last), senders, required, looked, recorded_until=until)


ALL_THERE = Required("three phases", (), pause_s=5)
ONE_MISSING = Required("three phases", ("venous",), pause_s=5)


@pytest.mark.parametrize(
    ("progress", "now", "rule"),
    [
        (progress(0, sender(1)), 0, None),
        (progress(0, sender(1)), 29.9, None),
        (progress(0, sender(1)), 30, CompletedBy.QUIET_PERIOD),
        (progress(590, sender(9)), 599, None),
        (progress(590, sender(9)), 600, CompletedBy.DEADLINE),
        (progress(590, sender(9)), 620, CompletedBy.QUIET_PERIOD),
        (progress(0, sender(1), recorded=29.9), 40, None),
        (progress(0, sender(1), recorded=30), 40, CompletedBy.QUIET_PERIOD),
        (progress(0, sender(1), recorded=0), 600, CompletedBy.DEADLINE),
        (progress(5, sender(3), required=ALL_THERE, recorded=9), 20, None),
        (progress(5, sender(3, expected=3, asked=6), recorded=5), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, sender(3, expected=3, asked=6)), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, sender(4, expected=3, asked=6)), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, sender(2, expected=3, asked=6)), 6, None),
        (progress(5, sender(3, expected=3, asked=5.9)), 6, None),
        (progress(5, sender(3, expected=3, asked=4)), 34, None),
        (progress(5, sender(3, expected=3, asked=4)), 35, CompletedBy.QUIET_PERIOD),
        (progress(5, sender(2, expected=3, asked=6)), 35, CompletedBy.QUIET_PERIOD),
        (progress(5, sender(3, expected=None, asked=6)), 6, None),
        # two senders: what one holds says nothing of the other
        (progress(5, sender(5, 10, 6, "A"), sender(5, 10, 6, "B")), 6, None),
        (progress(5, sender(10, 10, 6, "A"), sender(5, 10, 6, "B")), 6, None),
        (progress(5, sender(10, 10, 6, "A"), sender(10, 10, 6, "B")), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, sender(10, 10, 6, "A"), sender(10)), 6, None),
        (progress(5, sender(10, 10, 6, "A"), sender(10)), 35, CompletedBy.QUIET_PERIOD),
        # required series
        (progress(5, sender(3), required=ALL_THERE), 9.9, None),
        (progress(5, sender(3), required=ALL_THERE), 10, CompletedBy.REQUIRED_SERIES),
        (progress(5, sender(3), required=ALL_THERE, looked=False), 100, None),
        (progress(5, sender(3, 3, 6), required=ALL_THERE), 6, CompletedBy.EXPECTED_COUNT),
        (progress(5, sender(3, 3, 6), required=ONE_MISSING), 599, None),
        (progress(5, sender(3), required=ONE_MISSING), 599, None),
    ],
)
def test_a_study_is_complete_by_the_first_rule_that_holds(
    progress: Progress, now: float, rule: CompletedBy | None
) -> None:
    found = verdict(progress, RULES, at(now))
    assert (found and found.rule) == rule
    assert not (found and found.park)
    if found and not any(sender.count for sender in progress.senders):
        assert may_be_over(
            progress.first_received_at, progress.last_received_at, progress.required, RULES, at(now)
        )


LACKING = "1 of the instances that A holds had not arrived"


@pytest.mark.parametrize(
    ("progress", "now", "rules", "found"),
    [
        (
            progress(5, sender(2, 3, 6)),
            35,
            RULES,
            Verdict(CompletedBy.QUIET_PERIOD, LACKING),
        ),
        (progress(5, sender(2, 3, 6)), 599, PARKING, None),
        (progress(5, sender(2, 3, 6)), 600, PARKING, Verdict(CompletedBy.DEADLINE, LACKING, park=True)),
        (progress(599, sender(2, 3, 6)), 600, PARKING, Verdict(CompletedBy.DEADLINE, LACKING, park=True)),
        (progress(599, sender(2, 3, 6)), 600, RULES, Verdict(CompletedBy.DEADLINE, LACKING)),
        (progress(5, sender(3, 3, 6)), 6, PARKING, Verdict(CompletedBy.EXPECTED_COUNT)),
        (progress(5, sender(3)), 35, PARKING, Verdict(CompletedBy.QUIET_PERIOD)),
        (progress(5, sender(3, None, 6)), 35, PARKING, Verdict(CompletedBy.QUIET_PERIOD)),
        (
            progress(5, sender(3), required=ONE_MISSING),
            600,
            RULES,
            Verdict(
                CompletedBy.DEADLINE,
                "series that rule 'three phases' requires had not arrived: venous",
                park=True,
            ),
        ),
        (
            progress(5, sender(2, 3, 6), required=ALL_THERE),
            10,
            PARKING,
            Verdict(CompletedBy.REQUIRED_SERIES, LACKING),
        ),
    ],
)
def test_what_is_missing_is_said_and_parks_the_study_where_it_is_to(
    progress: Progress, now: float, rules: AssemblySettings, found: Verdict | None
) -> None:
    assert verdict(progress, rules, at(now)) == found


def test_a_slow_sender_keeps_its_study_open_through_every_pause() -> None:
    """Ten images, 29 s between two of them: each is activity, and 30 s after the last one it is over."""
    for number in range(10):
        last = number * 29.0
        for now in (last, last + 10, last + 28.9):
            assert verdict(progress(last, sender(number + 1)), RULES, at(now)) is None
    assert verdict(progress(261, sender(10)), RULES, at(291)) == Verdict(CompletedBy.QUIET_PERIOD)


@pytest.mark.parametrize(
    ("last", "asked", "now", "due"),
    [
        (5, None, 5.9, False),
        (5, None, 6, True),
        (5, 4, 6, True),
        (5, 6, 7, False),
        (5, 6, 10.9, False),
        (5, 6, 11, True),
    ],
)
def test_the_count_is_asked_after_a_pause_and_again_at_intervals(
    last: float, asked: float | None, now: float, due: bool
) -> None:
    assert is_due(None if asked is None else at(asked), at(last), RULES, at(now)) is due


@pytest.mark.parametrize(
    ("released", "asked", "closes"),
    [
        (5.1, 5.2, True),
        (5.1, 5.0, False),  # asked before the release: the peer may have said it between two images
        (4.9, 5.2, False),  # released before the last image came on another association
        (None, 5.2, False),
        (None, 6.0, True),
    ],
)
def test_a_release_after_the_last_image_ends_the_pause_before_the_count(
    released: float | None, asked: float, closes: bool
) -> None:
    released_at = None if released is None else at(released)
    found = replace(progress(5, sender(3, 3, asked)), released_at=released_at)
    assert (verdict(found, RULES, at(6.0)) == Verdict(CompletedBy.EXPECTED_COUNT)) is closes
    assert is_due(None, at(5), RULES, at(5.5), released_at) is (released == 5.1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node that asks its peers for counts."""
    more = """
[assembly]
quiet_period_s = 30
deadline_s = 600
settle_s = 1
count_interval_s = 0.000001

[[peer]]
name = "SECOND"
ae_title = "SECOND"
host = "127.0.0.1"
port = 104
may_send = true
count_instances = true
"""
    found = settings_in(tmp_path, more)
    first = found.peer[0].model_copy(update={"count_instances": True})
    return found.model_copy(update={"peer": (first, *found.peer[1:])})


class Peers:
    """What peers answer when they are asked; an error when they do not."""

    def __init__(self) -> None:
        self.counts: dict[str, int | TransientError | None] = {}
        self.asked: list[str] = []

    def __call__(self, ae_title: str, peer: PeerSettings, study_instance_uid: str) -> int | None:
        self.asked.append(peer.name)
        answer = self.counts.get(peer.name, TransientError(f"peer {peer.name} does not answer"))
        if isinstance(answer, TransientError):
            raise answer
        return answer


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Peers:
    found = Peers()
    monkeypatch.setattr(query, "count_instances", found)
    return found


@pytest.fixture
def assembly(settings: Settings, database: Database) -> Assembly:
    return Assembly(settings, database)


def ask_all(assembly: Assembly, settings: Settings) -> None:
    for peer in settings.peer:
        assembly.ask_counts(peer)


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
    assembly: Assembly, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    assembly.close_complete_studies()
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


def test_a_study_is_not_quiet_while_images_of_its_time_wait_for_their_rows(
    settings: Settings, database: Database, intake: Intake, spool: Spool
) -> None:
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(31))
    for journal in ("one", "two"):
        (spool.journals / journal).mkdir(parents=True)
    mark_behind(spool.journals / "one", ago(10))
    mark_behind(spool.journals / "two", ago(0))
    assembly = Assembly(settings, database)
    assembly.close_complete_studies()
    assert study(database).state == "receiving", "one of what arrived since may be of this study"
    mark_up_to_date(spool.journals / "one")
    assembly.close_complete_studies()
    assert study(database).completed_by == "quiet_period"


def test_silence_while_the_node_was_down_is_not_the_senders(
    settings: Settings, database: Database, intake: Intake
) -> None:
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(60))
    Assembly(settings, database, taking_since=ago(20)).close_complete_studies()
    assert study(database).state == "receiving"
    Assembly(settings, database, taking_since=ago(31)).close_complete_studies()
    assert study(database).completed_by == "quiet_period"


def test_what_a_dead_receiver_left_does_not_make_a_study_silent(
    settings: Settings, database: Database, intake: Intake, spool: Spool
) -> None:
    late = arrival(image())
    journal = Journal(spool.journals / "other", 2**20)
    journal.append(Entry(late, identify(late), ago(95)), lambda _: None, lambda _: None)
    journal.close(is_done=False)
    intake.take(arrival(image()))
    Recorder(spool, database, Audit("receiver")).recover()
    Assembly(settings, database).close_complete_studies()
    assert study(database).state == "receiving"


def test_a_study_whose_headers_cannot_be_looked_at_holds_up_no_other(
    tmp_path: Path, database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, REQUIRED)
    assembly = Assembly(settings, database)
    for uid in ("1.2.3", STUDY):
        intake.take(arrival(image(StudyInstanceUID=uid)))
    with database.transaction() as session:
        for row in session.scalars(select(StudyRow)):
            row.first_received_at = row.last_received_at = ago(7200)

    def look_unless_odd(found: Study, rules: Any) -> Any:
        if found.study_instance_uid == "1.2.3":
            raise ValueError("odd")
        return required_of(found, rules)

    monkeypatch.setattr("dicomnode.assemble.assembly.required_of", look_unless_odd)
    assembly.look_for_required()
    assembly.close_complete_studies()
    assert study(database).state != "receiving"


def test_a_recorder_that_makes_no_progress_holds_up_nobody_for_ever(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spool.journals / "one").mkdir(parents=True)
    mark_behind(spool.journals / "one", ago(10))
    now = utc_now()
    assert recorded_until(spool.journals, now) < now
    monkeypatch.setattr("dicomnode.receive.behind.STUCK_S", 0.0)
    assert recorded_until(spool.journals, now) == now


def test_a_count_that_is_reached_closes_the_study_before_it_is_quiet(
    settings: Settings, database: Database, intake: Intake, assembly: Assembly, peers: Peers
) -> None:
    intake.take(arrival(image()))
    intake.take(arrival(image()))
    change(database, last_received_at=ago(3))
    peers.counts = {"PACS": 3}
    ask_all(assembly, settings)
    assembly.close_complete_studies()
    assert (study(database).state, study(database).expected_count) == ("receiving", 3)
    peers.counts = {"PACS": 2}
    ask_all(assembly, settings)
    assembly.close_complete_studies()
    assert study(database).completed_by == "expected_count", "a count may shrink: images were deleted there"
    assert "SECOND" not in peers.asked, "it sent nothing of this study"


def test_a_count_asked_before_the_last_arrival_does_not_close_the_study(
    settings: Settings, database: Database, intake: Intake, assembly: Assembly, peers: Peers
) -> None:
    intake.take(arrival(image()))
    change(database, last_received_at=ago(3))
    peers.counts = {"PACS": 1}
    ask_all(assembly, settings)
    intake.take(arrival(image()))
    assembly.close_complete_studies()
    assert study(database).state == "receiving"


def test_versions_of_one_instance_count_once(
    settings: Settings, database: Database, intake: Intake, assembly: Assembly, peers: Peers
) -> None:
    sent = image()
    intake.take(arrival(sent))
    sent.SeriesDescription = "Corrected"
    intake.take(arrival(sent))
    change(database, last_received_at=ago(3))
    peers.counts = {"PACS": 2}
    ask_all(assembly, settings)
    assembly.close_complete_studies()
    assert study(database).state == "receiving"


def test_one_study_from_two_senders_is_complete_when_both_have_sent_all_of_theirs(
    settings: Settings, database: Database, intake: Intake, assembly: Assembly, peers: Peers
) -> None:
    second = Origin("SECOND", "127.0.0.1", "LESIONNODE")
    peers.counts = {"PACS": 2, "SECOND": 2}
    for origin in (None, second):
        intake.take(arrival(image()) if origin is None else arrival(image(), origin=origin))
    change(database, last_received_at=ago(3))
    ask_all(assembly, settings)
    assembly.close_complete_studies()
    assert study(database).state == "receiving", "two came, and each of them has two: one of each is missing"
    assert study(database).expected_count == 4
    for origin in (None, second):
        intake.take(arrival(image()) if origin is None else arrival(image(), origin=origin))
    change(database, last_received_at=ago(3))
    ask_all(assembly, settings)
    assembly.close_complete_studies()
    found = study(database)
    assert (found.completed_by, found.received_count, found.expected_count) == ("expected_count", 4, 4)


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
    settings: Settings, database: Database, intake: Intake, assembly: Assembly, peers: Peers
) -> None:
    intake.take(arrival(image()))
    with database.transaction() as session:
        add_result(session, 1, "waiting")
        add_result(session, 2, "delivered", destination="ELSEWHERE")
    change(database, last_received_at=ago(3))
    peers.counts = {"PACS": 2}
    ask_all(assembly, settings)
    assembly.close_complete_studies()
    assert study(database).state == "receiving"
    with database.transaction() as session:
        add_result(session, 3, "delivered")
    assembly.close_complete_studies()
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


def test_a_peer_that_cannot_be_asked_rests_and_leaves_the_quiet_period_to_decide(
    settings: Settings, database: Database, intake: Intake, assembly: Assembly, peers: Peers
) -> None:
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(31))
    for _ in range(5):
        ask_all(assembly, settings)
    assert peers.asked == ["PACS"], "a silent peer is not asked again at once"
    assert study(database).expected_count is None
    assembly.close_complete_studies()
    assert study(database).completed_by == "quiet_period"


def test_a_peer_that_falls_silent_is_believed_about_what_was_missing(
    settings: Settings, database: Database, intake: Intake, peers: Peers
) -> None:
    parking = settings.model_copy(update={"assembly": PARKING.model_copy(update={"count_interval_s": 1e-6})})
    assembly = Assembly(parking, database)
    intake.take(arrival(image()))
    change(database, first_received_at=ago(60), last_received_at=ago(31))
    peers.counts = {"PACS": 2}
    ask_all(assembly, parking)
    peers.counts = {}
    ask_all(assembly, parking)
    assembly.close_complete_studies()
    assert study(database).state == "receiving", "not processed at the quiet period without its second image"
    change(database, first_received_at=ago(601))
    assembly.close_complete_studies()
    found = study(database)
    assert (found.state, found.missing) == ("parked", "1 of the instances that PACS holds had not arrived")
    ((_, detail),) = events(database, "study_parked")
    assert detail["reason"] == f"something is missing at the deadline: {found.missing}"
    assert (detail["received_count"], detail["expected_count"]) == (1, 2)


REQUIRED = """
[[required]]
name = "two phases"
pause_s = 1.0
[required.when]
modality = "CT"
study_description = "liver"
[[required.series]]
name = "arterial"
when = { modality = "CT", series_description = "art", instance_count = { min = 2 } }
[[required.series]]
name = "venous"
when = { modality = "CT", series_description = "ven" }
"""


def liver(series: int, description: str) -> dict[str, str]:
    return {
        "StudyDescription": "CT Liver",
        "SeriesInstanceUID": f"1.2.3.4.{series}",
        "SeriesDescription": description,
    }


def test_a_study_is_complete_with_its_required_series_and_never_without(
    tmp_path: Path, database: Database, intake: Intake
) -> None:
    settings = settings_in(tmp_path, REQUIRED)
    assembly = Assembly(settings, database)

    def rest() -> StudyRow:
        change(database, last_received_at=ago(60))
        assembly.close_complete_studies()
        assert study(database).state == "receiving", "nobody has looked at the headers since the last arrival"
        assembly.look_for_required()
        assembly.close_complete_studies()
        return study(database)

    intake.take(arrival(image(**liver(1, "arterial"))))
    intake.take(arrival(image(**liver(2, "venous"))))
    assert rest().state == "receiving", "one arterial image is not enough, however quiet it is"
    intake.take(arrival(image(**liver(1, "arterial"))))
    found = rest()
    assert (found.state, found.completed_by, found.missing) == ("complete", "required_series", None)


def test_a_study_without_its_required_series_is_parked_at_the_deadline(
    tmp_path: Path, database: Database, intake: Intake
) -> None:
    settings = settings_in(tmp_path, REQUIRED)
    assembly = Assembly(settings, database)
    intake.take(arrival(image(**liver(2, "venous"))))
    change(database, first_received_at=ago(1801), last_received_at=ago(1801))
    assembly.look_for_required()
    assembly.close_complete_studies()
    found = study(database)
    assert found.state == "parked"
    assert found.missing == "series that rule 'two phases' requires had not arrived: arterial"
    intake.take(arrival(image(**liver(1, "arterial"))))
    assert (study(database).state, study(database).missing) == ("receiving", None), "a late series reopens it"


def test_a_study_that_no_rule_is_about_needs_no_series(
    tmp_path: Path, database: Database, intake: Intake
) -> None:
    settings = settings_in(tmp_path, REQUIRED)
    assembly = Assembly(settings, database)
    intake.take(arrival(image(StudyDescription="CT Chest")))
    change(database, last_received_at=ago(31))
    assembly.look_for_required()
    assembly.close_complete_studies()
    assert study(database).completed_by == "quiet_period"


def test_a_look_at_arriving_studies_asks_the_database_as_often_for_many_as_for_one(
    database: Database, intake: Intake, settings: Settings
) -> None:
    assembly, statements = Assembly(settings, database), list[str]()

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    asked = []
    listen(database.engine, "before_cursor_execute", note)
    for number in range(4):
        intake.take(arrival(image(StudyInstanceUID=f"1.2.{number}", SeriesInstanceUID=f"1.2.{number}.1")))
        statements.clear()
        assembly.close_complete_studies()
        asked.append(len(statements))
    assert len(set(asked)) == 1, asked
