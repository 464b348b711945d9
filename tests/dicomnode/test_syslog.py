"""Audit messages keep to PS3.15 whatever the trail holds, and leave in order, once, by a cursor.

Not covered: a real syslog daemon and TLS; `tests/system/test_rsyslog.py` has both.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dicomnode.errors import ConfigurationError
from dicomnode.observe.syslog import lags
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import Fact, append
from dicomnode.records.db import Database, utc_now
from dicomnode.records.watch_tables import SyslogCursorRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.audit import SyslogSettings
from dicomnode.settings.node import Settings
from dicomnode.syslog import feed as feeding
from dicomnode.syslog.feed import Feed
from dicomnode.syslog.senders import MESSAGE_ID, sender_to
from tests.dicomnode.parts import PATIENT, arrival, image, wait_until
from tests.dicomnode.syslog_parts import Receiver, detail, event_ids, parsed

pytestmark = pytest.mark.both_databases

HOSTILE = "\x1b[31m\x00]]><a b='\"&amp;\r\n\ud800\ufffe" + "x" * 50

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "FIRST_PAUSE_S", 0.01)


def record(database: Database, event: Event, subject: Subject | None = None, **values: Any) -> None:
    with database.transaction() as session:
        Audit(values.pop("actor", "test")).record(session, event, subject or Subject(), **values)


def fed(settings: Settings, database: Database, receiver: Receiver, count: int, **values: Any) -> list[Any]:
    """The first `count` messages that a receiver gets, parsed and held against the schema."""
    feed = Feed(settings, receiver.target(**values), database)
    feed.tick()
    wait_until(lambda: len(receiver.messages) >= count, 60.0)
    feed.close()
    return [parsed(body(message)) for message in receiver.messages]


def keep_feeding(feed: Feed, condition: Callable[[], bool]) -> None:
    """Tick as housekeeping does, until `condition` holds."""

    def tick() -> bool:
        feed.tick()
        return condition()

    wait_until(tick, 60.0)


def body(message: str) -> str:
    """The XML of a syslog message, whose header is checked."""
    header, mark, xml = message.partition("\ufeff")
    assert mark
    assert re.fullmatch(
        r"<8[45]>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ dicomnode \d+ DICOM\+RFC3881 - ", header
    )
    assert MESSAGE_ID in header
    return xml


def test_received_instances_of_a_study_are_one_message_that_names_them_all(
    settings: Settings, database: Database, intake: Intake, receiver: Receiver
) -> None:
    uids = [f"1.2.3.4.5.{n}" for n in range(3)]
    for uid in uids:
        intake.take(arrival(image(SOPInstanceUID=uid)))
    (root,) = fed(settings, database, receiver, 1)
    assert root.xpath("//EventID/@csd-code") == ["110104"]
    assert root.xpath("//EventIdentification/@EventActionCode") == ["C"]
    assert root.xpath("//EventIdentification/@EventOutcomeIndicator") == ["0"]
    assert root.xpath("//ActiveParticipant/@UserID") == ["LESIONNODE", "PACS"]
    assert root.xpath("//ActiveParticipant/@UserIsRequestor") == ["false", "true"]
    assert root.xpath("//RoleIDCode/@csd-code") == ["110152", "110153"]
    assert root.xpath("//ActiveParticipant[2]/@NetworkAccessPointID") == ["127.0.0.1"]
    assert root.xpath("//SOPClass/@UID") == [CT]
    assert root.xpath("//SOPClass/@NumberOfInstances") == ["3"]
    assert root.xpath("//Instance/@UID") == uids
    assert root.xpath("//Accession/@Number") == [PATIENT["AccessionNumber"]]
    assert root.xpath("//ParticipantObjectIdentification/@ParticipantObjectID")[:2] == [
        "1.2.3.4",
        PATIENT["PatientID"],
    ]
    assert event_ids(root) == [1, 2, 3]


def test_a_study_of_many_instances_is_told_in_messages_that_a_receiver_can_take(
    settings: Settings, database: Database, intake: Intake, receiver: Receiver
) -> None:
    prefix = "1.2.840.113619.2.55.3.2831178355.201.1456389753.112.987654321"
    for number in range(100):
        intake.take(arrival(image(SOPInstanceUID=f"{prefix}.{number}")))
    roots = fed(settings, database, receiver, 3)
    assert [len(event_ids(root)) for root in roots] == [40, 40, 20]
    assert max(len(message.encode()) for message in receiver.messages) < 8192


def test_patients_are_named_only_where_asked_and_where_the_standard_wants_it(
    settings: Settings, database: Database, intake: Intake, receiver: Receiver
) -> None:
    intake.take(arrival(image()))
    record(database, Event.STUDY_REPLAYED, Subject("1.2.3.4"))
    transferred, activity = fed(settings, database, receiver, 2)
    assert PATIENT["PatientID"] in str(transferred.xpath("//@ParticipantObjectID"))
    assert activity.xpath("//EventID/@csd-code") == ["110100"]
    assert PATIENT["PatientID"] not in str(activity.xpath("//@ParticipantObjectID"))
    with database.transaction() as session:
        session.execute(text("DELETE FROM syslog_cursors"))
    receiver.messages.clear()
    fed(settings, database, receiver, 2, patient_id=False)
    assert not any(PATIENT["PatientID"] in message for message in receiver.messages)


@pytest.mark.parametrize(
    ("event", "values", "expected"),
    [
        (Event.NODE_STARTED, {"ae_title": "X", "port": 1}, ("110100", "110120", "0", "E")),
        (
            Event.ASSOCIATION_REJECTED,
            {
                "calling_ae_title": "EVIL",
                "called_ae_title": "X",
                "address": "::1",
                "reason": "no",
                "times": 1,
            },
            ("110113", "110126", "4", "E"),
        ),
        (Event.JOB_FAILED, {"reason": "x"}, ("110100", "job_failed", "8", "E")),
        (
            Event.DELIVERY_DEAD,
            {"destination": "PACS", "kind": "seg", "status": "A700", "attempt": 2},
            ("110104", "delivery_dead", "8", "C"),
        ),
        (Event.AUDIT_READ, {"command": "show", "study_count": 1}, ("110101", "audit_read", "0", "R")),
        (
            Event.LOGIN_FAILED,
            {"user": "eve", "address": "a", "reason": "r"},
            ("110114", "110122", "4", "E"),
        ),
    ],
)
def test_events_have_the_codes_of_the_standard(
    settings: Settings,
    database: Database,
    receiver: Receiver,
    event: Event,
    values: dict[str, Any],
    expected: tuple[str, ...],
) -> None:
    record(database, event, **values)
    (root,) = fed(settings, database, receiver, 1)
    told = [
        *root.xpath("//EventID/@csd-code"),
        *root.xpath("//EventTypeCode/@csd-code"),
        *root.xpath("//EventIdentification/@EventOutcomeIndicator"),
        *root.xpath("//EventIdentification/@EventActionCode"),
    ]
    assert tuple(told) == expected


def test_a_delivery_names_the_destination_by_its_ae_title(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    values: dict[str, Any] = {"destination": "PACS", "kind": "seg", "status": "0000", "attempt": 1}
    record(database, Event.RESULT_DELIVERED, Subject("1.2", "1.2.3", "1.2.3.4", None), **values)
    (root,) = fed(settings, database, receiver, 1)
    assert root.xpath("//ActiveParticipant/@UserIsRequestor") == ["true", "false"]
    assert root.xpath("//ActiveParticipant/@UserID") == ["LESIONNODE", settings.peers["PACS"].ae_title]
    assert root.xpath("//RoleIDCode/@csd-code") == ["110153", "110152"]
    assert root.xpath("//Instance/@UID") == ["1.2.3.4"]


def test_a_person_is_a_participant_of_their_own(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    record(database, Event.AUDIT_READ, actor="admin jane", command="list", study_count=0)
    (root,) = fed(settings, database, receiver, 1)
    assert root.xpath("//ActiveParticipant[2]/@UserID") == ["jane"]


def test_an_anchor_leaves_the_node_whole(settings: Settings, database: Database, receiver: Receiver) -> None:
    values: dict[str, Any] = {
        "day": "2026-03-01",
        "event_count": 7,
        "last_id": 7,
        "last_sha256": "ab" * 32,
        "signature": "cd",
    }
    record(database, Event.ANCHOR_WRITTEN, **values)
    (root,) = fed(settings, database, receiver, 1)
    assert '"last_sha256": "' + "ab" * 32 in detail(root, "detail")
    with database.snapshot() as session:
        assert detail(root, "seal") == session.scalar(text("SELECT sha256 FROM audit_events"))


def test_hostile_words_make_a_message_that_still_keeps_to_the_standard(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    with database.transaction() as session:
        for event in (Event.ASSOCIATION_REJECTED, Event.INSTANCE_REFUSED):
            values = {"called_ae_title": HOSTILE, "address": HOSTILE, "reason": HOSTILE, "status": HOSTILE}
            Audit(HOSTILE[:8]).record(
                session,
                event,
                Subject(sop_instance_uid="1.2"),
                calling_ae_title=HOSTILE.replace("\ud800", ""),
                **{key: value.replace("\ud800", "") for key, value in values.items()},
                times=1,
            )
    for root in fed(settings, database, receiver, 2):
        (name,) = root.xpath("//ActiveParticipant[2]/@UserID")
        assert name.startswith("\\x1b[31m␀]]><a b='\"&amp;\\x0d\\x0a")


def test_what_was_sent_is_not_sent_again_and_what_is_new_follows(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    record(database, Event.STUDY_REPLAYED, Subject("1.2"))
    assert len(fed(settings, database, receiver, 1)) == 1
    record(database, Event.JOB_REPLAYED)
    roots = fed(settings, database, receiver, 2)  # another feed, as after a restart
    assert [event_ids(root) for root in roots] == [[1], [2]]


def test_an_event_of_a_newer_version_holds_nothing_up(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    with database.transaction() as session:
        append(session, Fact(utc_now(), "moon_risen", "x", None, None, None, None, {}))
    record(database, Event.JOB_REPLAYED)
    newer, known = fed(settings, database, receiver, 2)
    assert newer.xpath("//EventTypeCode/@csd-code") == ["moon_risen"]
    assert event_ids(known) == [2]


def test_a_receiver_that_is_away_is_waited_for_and_nothing_is_lost(
    settings: Settings, database: Database, logs: list[Any]
) -> None:
    receiver = Receiver(free_port())
    feed = Feed(settings, receiver.target(), database)
    record(database, Event.STUDY_REPLAYED)
    feed.tick()
    wait_until(lambda: len(receiver.messages) == 1, 60.0)
    receiver.close()
    for _ in range(3):
        record(database, Event.JOB_REPLAYED)
        feed.tick()
    assert [entry["event"] for entry in logs].count("syslog_away") == 1

    back = Receiver(receiver.port)
    keep_feeding(feed, lambda: len(back.messages) == 3)
    assert [event_ids(parsed(body(m))) for m in back.messages] == [[2], [3], [4]]
    assert "syslog_back" in [entry["event"] for entry in logs]
    back.close()


def test_what_a_receiver_has_not_had_is_counted_with_its_age(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    target = receiver.target()
    for _ in range(2):
        record(database, Event.STUDY_REPLAYED)
    with database.snapshot() as session:
        (lag,) = lags(session, [target])
    assert (lag.target, lag.events, lag.sent_at) == ("test", 2, None)
    assert 0 < lag.oldest_s < 60
    fed(settings, database, receiver, 2)
    with database.snapshot() as session:
        (lag,) = lags(session, [target])
    assert (lag.events, lag.oldest_s) == (0, 0.0)
    assert lag.sent_at is not None


def test_a_receiver_that_hung_up_is_noticed_before_anything_is_lost(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    feed = Feed(settings, receiver.target(), database)
    for _ in range(3):
        record(database, Event.STUDY_REPLAYED)
        expected = len(receiver.messages) + 1
        keep_feeding(feed, lambda: len(receiver.messages) == expected)  # noqa: B023
        receiver.hang_up()
    assert receiver.connections == 3
    assert [event_ids(parsed(body(message))) for message in receiver.messages] == [[1], [2], [3]]


def test_datagrams_carry_one_message_each(settings: Settings, database: Database) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(60)
        target = SyslogSettings(name="u", host="127.0.0.1", port=listening.getsockname()[1], transport="udp")
        record(database, Event.STUDY_REPLAYED)
        record(database, Event.JOB_REPLAYED)
        Feed(settings, target, database).tick()
        told = [event_ids(parsed(body(listening.recv(65536).decode()))) for _ in range(2)]
    assert told == [[1], [2]]


def test_two_receivers_are_told_independently(
    settings: Settings, database: Database, receiver: Receiver
) -> None:
    record(database, Event.STUDY_REPLAYED)
    away = SyslogSettings(name="away", host="127.0.0.1", port=free_port(), transport="tcp")
    Feed(settings, away, database).tick()
    fed(settings, database, receiver, 1)
    with database.snapshot() as session:
        assert session.get(SyslogCursorRow, "away") is None
        assert session.get_one(SyslogCursorRow, "test").last_event_id == 1


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    target = SyslogSettings(name="t", host="h", port=1, ca=tmp_path / "ca.pem")
    with pytest.raises(ConfigurationError, match=r"audit\.syslog t: ca, certificate or key"):
        sender_to(target)


@pytest.mark.parametrize(
    "values", [{"certificate": Path("c")}, {"key": Path("k")}, {"transport": "udp", "ca": Path("c")}]
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"together|transport"):
        SyslogSettings(name="t", host="h", port=1, **values)
