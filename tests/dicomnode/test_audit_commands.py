"""What an administrator is told of the trail, in which form, and what the trail then says of that.

Not covered: `audit export` (`test_audit_export.py`); speed (`make bench`, stage `pages`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dicomnode.commands.person import account
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.show.plain import plain
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.console import Command
from tests.dicomnode.parts import PATIENT, arrival, events, image, write_config
from tests.dicomnode.tampering import tamper

pytestmark = pytest.mark.both_databases

HOSTILE = (
    "\x1b[31mred\x07</td><script>alert(1)</script>\r\n[bold]=cmd|' /C calc'!A1'; DROP TABLE studies; --\u202e"
)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    from dicomnode.commands.options import console

    monkeypatch.setattr(console, "width", 400)
    return Command(write_config(tmp_path))


@pytest.fixture
def database(command: Command) -> Database:
    """One instance each of two studies of one patient."""
    settings = load_settings(command.config)
    database = migrated_database(settings)
    spool = Spool(settings.spool)
    spool.prepare()
    intake = Intake(spool, database, Audit("receiver"))
    intake.take(arrival(image(SOPInstanceUID="1.2.3.4.5.1")))
    intake.take(arrival(image(StudyInstanceUID="9.9", SeriesInstanceUID="9.9.1", AccessionNumber="ACC-2")))
    return database


def test_the_story_is_told_for_whatever_one_has(command: Command, database: Database) -> None:
    for identifier in (PATIENT["AccessionNumber"], "1.2.3.4", "1.2.3.4.5", "1.2.3.4.5.1"):
        assert "instance received from PACS" in command("audit", "show", identifier), identifier
    answer = command.json("audit", "show", "1.2.3.4")
    assert [(hit["named"], hit["study_instance_uid"]) for hit in answer["hits"]] == [("study", "1.2.3.4")]
    assert answer["events"][0]["event"] == "instance_received"
    assert answer["events"][0]["at"].endswith("+00:00")


def test_several_things_under_one_identifier_are_listed(command: Command, database: Database) -> None:
    shown = command("audit", "show", PATIENT["PatientID"])
    assert "several things" in shown
    assert shown.count("patient id") == 2
    answer = command.json("audit", "show", PATIENT["PatientID"])
    assert len(answer["hits"]) == 2
    assert answer["events"] == []


def test_what_an_identifier_is_can_be_said(command: Command, database: Database) -> None:
    assert command.json("audit", "show", "ACC-2", "--as", "accession_number")["hits"]
    with pytest.raises(PermanentError, match="nothing is known under 'ACC-2'"):
        command("audit", "show", "ACC-2", "--as", "patient_id")


def test_the_list_is_filtered_and_turned(command: Command, database: Database) -> None:
    assert [row["event"] for row in command.json("audit", "list")] == ["instance_received"] * 2
    (newest,) = command.json("audit", "list", "--event", "instance_received", "--limit", "1")
    (older,) = command.json("audit", "list", "--before", str(newest["id"]), "--event", "instance_received")
    assert (older["study_instance_uid"], newest["study_instance_uid"]) == ("1.2.3.4", "9.9")
    assert len(command.json("audit", "list", "--peer", "PACS", "--since", "2h")) == 2
    assert command.json("audit", "list", "--peer", "PACS", "--until", "2h") == []
    assert command.json("audit", "list", "--outcome", "failure") == []
    assert command.json("audit", "list", "--model", "none") == []
    assert len(command.json("audit", "list", "--who", "receiver")) == 2
    assert {row["event"] for row in command.json("audit", "list", "--who", account())} == {"audit_read"}
    assert f"--before {older['id']}" in command(
        "audit", "list", "--limit", "1", "--before", str(newest["id"])
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--since", "soon"],
        ["--outcome", "bad"],
        ["--event", "nonsense"],
        ["--since", "9" * 30 + "d"],
        ["--event", "job_failed", "--outcome", "success"],
    ],
)
def test_a_filter_that_is_none_is_a_wrong_command_line(command: Command, arguments: list[str]) -> None:
    command("audit", "list", *arguments, code=2)


def test_whoever_reads_the_trail_is_recorded_without_what_was_typed(
    command: Command, database: Database
) -> None:
    command("audit", "show", PATIENT["AccessionNumber"])
    command("audit", "show", PATIENT["PatientID"])
    command("audit", "list")
    details = [detail for _, detail in events(database, "audit_read")]
    assert [(d["command"], d["study_count"]) for d in details] == [("show", 1), ("show", 2), ("list", 2)]
    (row, *_) = command.json("audit", "list", "--event", "audit_read")
    assert row["actor"].startswith("admin ")
    assert row["study_instance_uid"] == "1.2.3.4"
    assert not any(word in str(details) for word in PATIENT.values())


@pytest.fixture
def in_kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_kathmandu")
def test_times_are_local_on_screen_and_utc_for_scripts(command: Command, database: Database) -> None:
    assert "+0545" in command("audit", "list")
    assert command.json("audit", "list")[0]["at"].endswith("+00:00")
    assert len(command.json("audit", "list", "--since", "2026-01-01 12:00", "--peer", "PACS")) == 2


@pytest.fixture
def signing(command: Command, database: Database, tmp_path: Path) -> Path:
    """A configured signing key; returns the file of its public half."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "audit.key").write_bytes(pem)
    public = tmp_path / "audit.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with command.config.open("a") as file:
        file.write('\n[audit]\nsigning_key = "audit.key"\n')
    return public


def verified(command: Command, *arguments: str, code: int = 0) -> Any:
    return json.loads(command("audit", "verify", "--json", *arguments, code=code))


def test_a_good_trail_is_held_against_its_anchors(command: Command, signing: Path) -> None:
    assert "2 events, in" in command("audit", "anchor")
    assert "nothing to do" in command("audit", "anchor")
    assert command("audit", "verify").startswith("3 events, unbroken; held against 1 anchor(s)")
    answer = verified(command, "--public-key", str(signing))
    assert (answer["good"], answer["event_count"], answer["anchor_count"]) == (True, 4, 1)


def test_a_changed_and_a_cut_trail_are_told_of_with_exit_code_1(
    command: Command, database: Database, signing: Path, tmp_path: Path
) -> None:
    command("audit", "anchor")
    tamper(
        database,
        "UPDATE audit_events SET actor = 'x' WHERE id = 1",
        "DELETE FROM audit_events WHERE id > 1",
    )
    answer = verified(command, code=1)
    assert [(fault["damage"], fault["event_id"]) for fault in answer["faults"]] == [
        ("changed", 1),
        ("cut_off", 2),
    ]
    assert "changed: event 1 (instance_received of" in command("audit", "verify", code=1)


def test_a_foreign_public_key_and_a_damaged_file_of_anchors_are_told_of(
    command: Command, signing: Path, tmp_path: Path
) -> None:
    command("audit", "anchor")
    other = tmp_path / "other.pub"
    foreign = Ed25519PrivateKey.generate().public_key()
    other.write_bytes(foreign.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (fault,) = verified(command, "--public-key", str(other), code=1)["faults"]
    assert fault["damage"] == "anchor"
    (tmp_path / "damaged").write_text("x\n")
    with pytest.raises(PermanentError, match=r"line 1 of .* is no anchor"):
        command("audit", "verify", "--anchors", str(tmp_path / "damaged"))
    with pytest.raises(PermanentError, match="there are no anchors at"):
        command("audit", "verify", "--anchors", str(tmp_path / "mistyped"))


def test_anchors_that_are_gone_or_were_begun_anew_are_told_of(
    command: Command, database: Database, signing: Path
) -> None:
    command("audit", "anchor")
    file = load_settings(command.config).anchors
    copy = file.rename(file.with_name("copy"))
    (fault,) = verified(command, code=1)["faults"]
    assert (fault["damage"], fault["event_id"]) == ("anchor", 3)
    command("audit", "anchor")
    (fault,) = verified(command, code=1)["faults"]
    assert "does not hold the anchor that was written first" in fault["told"]
    assert verified(command, "--anchors", str(copy))["good"]


def test_hostile_words_are_shown_as_text(command: Command, database: Database) -> None:
    with database.transaction() as session:
        Audit(HOSTILE).record(
            session,
            Event.ASSOCIATION_REJECTED,
            Subject("9.9"),
            calling_ae_title=HOSTILE,
            called_ae_title=HOSTILE,
            address="::1",
            reason=HOSTILE,
        )
    for shown in (command("audit", "list"), command("audit", "show", "9.9")):
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
        assert "\\x1b[31mred\\x07</td><script>" in shown
        assert "\\x0d\\x0a[bold]=cmd" in shown
    with pytest.raises(PermanentError, match="nothing is known"):
        command("audit", "show", HOSTILE)


def test_plain_text_stays_as_it_is() -> None:
    assert plain("Żółć 日本 é ß [x] <b> = +") == "Żółć 日本 é ß [x] <b> = +"
    assert plain("a\nb\x9b\u2028\ud800") == "a\\x0ab\\x9b\\u2028\\ud800"
