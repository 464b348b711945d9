"""What is exported is whole, can be read by others' software, and harms no spreadsheet.

Not covered: exports of millions of events, which are written as they are read.
"""

from __future__ import annotations

import csv
import json
import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from lxml import etree

from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.export.formats import harmless_cell
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.console import Command
from tests.dicomnode.parts import PATIENT, arrival, events, image, write_config

HOSTILE = "=cmd|' /C calc'!A1\r\n<script>\x1b[2J\"'; DROP TABLE studies; --"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    from dicomnode.commands.options import console

    monkeypatch.setattr(console, "width", 400)
    return Command(write_config(tmp_path))


@pytest.fixture
def database(command: Command) -> Database:
    """An instance, a start of the node, and a rejected association with hostile words."""
    settings = load_settings(command.config)
    database = migrated_database(settings)
    spool = Spool(settings.spool)
    spool.prepare()
    audit = Audit("receiver")
    with database.transaction() as session:
        audit.record(
            session,
            Event.NODE_STARTED,
            Subject(),
            ae_title="X",
            port=1,
            configuration_sha256="c0ffee",
            models={},
        )
    Intake(spool, database, audit).take(arrival(image(SOPInstanceUID="1.2.3.4.5.1")))
    with database.transaction() as session:
        words = {key: HOSTILE for key in ("calling_ae_title", "called_ae_title", "address", "reason")}
        Audit("@SUM(1)").record(session, Event.ASSOCIATION_REJECTED, Subject(), **words, times=1)
    return database


def exported(command: Command, tmp_path: Path, *arguments: str) -> str:
    out = tmp_path / "out"
    command("audit", "export", "--out", str(out), *arguments)
    return out.read_text("utf-8")


def test_a_spreadsheet_gets_cells_and_no_formula(
    command: Command, database: Database, tmp_path: Path
) -> None:
    rows = list(csv.DictReader(StringIO(exported(command, tmp_path, "--format", "csv"))))
    assert [row["event"] for row in rows] == ["node_started", "instance_received", "association_rejected"]
    assert rows[2]["actor"] == "'@SUM(1)"
    assert rows[2]["peer"].startswith("'=cmd|")
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert rows[1]["study_instance_uid"] == "1.2.3.4"
    assert rows[1]["what"] == "instance received from PACS"
    assert json.loads(rows[1]["detail"])["calling_ae_title"] == "PACS"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@A", "'@A"),
        ("\t=1", "\\x09=1"),
        ("a=1", "a=1"),
        (None, ""),
    ],
)
def test_a_cell_that_begins_like_a_formula_is_quoted(value: str | None, cell: str) -> None:
    assert harmless_cell(value) == cell


def test_json_lines_hold_every_column(command: Command, database: Database, tmp_path: Path) -> None:
    records = [json.loads(line) for line in exported(command, tmp_path, "--format", "jsonl").splitlines()]
    assert records[2]["detail"]["reason"] == HOSTILE
    assert records[1]["at"].endswith("+00:00")
    assert records[2]["previous_sha256"] == records[1]["sha256"]


def test_xml_is_well_formed_whatever_is_in_it(command: Command, database: Database, tmp_path: Path) -> None:
    root = etree.fromstring(exported(command, tmp_path, "--format", "xml").encode())
    assert root.xpath("//Event/@event") == ["node_started", "instance_received", "association_rejected"]
    (reason,) = root.xpath("//Event[3]/Detail[@name='reason']/text()")
    assert reason == "=cmd|' /C calc'!A1\\x0d\\x0a<script>\\x1b[2J\"'; DROP TABLE studies; --"


def test_fhir_is_what_a_fhir_library_takes(command: Command, database: Database, tmp_path: Path) -> None:
    found = [
        AuditEvent.model_validate_json(line)
        for line in exported(command, tmp_path, "--format", "fhir").splitlines()
    ]
    assert [event.type.code for event in found] == ["110100", "110104", "110113"]
    assert [event.outcome for event in found] == ["0", "0", "4"]
    assert found[1].agent[1].altId == "PACS"
    assert found[1].model_dump()["entity"][0]["what"]["identifier"]["value"] == "urn:oid:1.2.3.4"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--until", "2h"], []),
        (["--event", "node_started", "--event", "instance_received"], ["node_started", "instance_received"]),
        (["--outcome", "failure"], ["association_rejected"]),
        (["--peer", "PACS"], ["instance_received"]),
        (["--who", "@SUM(1)"], ["association_rejected"]),
    ],
)
def test_what_is_exported_can_be_chosen(
    command: Command, database: Database, tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    lines = exported(command, tmp_path, "--format", "jsonl", *arguments).splitlines()
    assert [json.loads(line)["event"] for line in lines] == expected


def test_everything_about_a_study_leaves_nothing_out(
    command: Command, database: Database, tmp_path: Path
) -> None:
    arguments = ("--out", str(tmp_path / "a.zip"), "--everything", "1.2.3.4", "--since", "2h")
    command("audit", "export", *arguments, code=2)
    assert not (tmp_path / "a.zip").exists()


def test_everything_about_a_study_is_in_one_zip(command: Command, database: Database, tmp_path: Path) -> None:
    out = tmp_path / "inquiry.zip"
    said = command("audit", "export", "--out", str(out), "--everything", PATIENT["AccessionNumber"])
    assert "1 instances" in said
    with zipfile.ZipFile(out) as archive:
        names = set(archive.namelist())
        (study,) = read(archive, "study.json")
        (start,) = read(archive, "configuration.json")
        story = archive.read("story.txt").decode()
    assert names == {
        "study.json", "instances.json", "decisions.json", "jobs.json", "results.json", "deliveries.json",
        "events.jsonl", "story.txt", "timing_s.json", "configuration.json",
    }  # fmt: skip
    assert study["accession_number"] == PATIENT["AccessionNumber"]
    assert start["configuration_sha256"] == "c0ffee"
    assert "instance received from PACS" in story


def test_the_objects_come_along_when_asked_for(command: Command, database: Database, tmp_path: Path) -> None:
    out = tmp_path / "inquiry.zip"
    command("audit", "export", "--out", str(out), "--everything", "1.2.3.4", "--objects")
    with zipfile.ZipFile(out) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith("instances/")]
        assert archive.read(name)[128:132] == b"DICM"


def read(archive: zipfile.ZipFile, name: str) -> Any:
    return json.loads(archive.read(name))


def test_whoever_exports_is_recorded(command: Command, database: Database, tmp_path: Path) -> None:
    exported(command, tmp_path, "--format", "jsonl")
    command("audit", "export", "--out", str(tmp_path / "a.zip"), "--everything", "1.2.3.4")
    details = [detail for _, detail in events(database, "audit_exported")]
    assert [detail["format"] for detail in details] == ["jsonl", "everything"]
    assert [detail["event_count"] for detail in details] == [3, 1]


def test_a_file_is_never_overwritten(command: Command, database: Database, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(PermanentError, match="is there already"):
        exported(command, tmp_path)
    with pytest.raises(PermanentError, match="cannot be written"):
        command("audit", "export", "--out", str(tmp_path / "no" / "folder"))
    assert (tmp_path / "out").read_text() == "precious"


def test_what_belongs_to_no_study_has_no_bundle(command: Command, database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        Audit("receiver").record(
            session, Event.INSTANCE_REFUSED, Subject(sop_instance_uid="7.7"),
            calling_ae_title="PACS", status="C000", reason="x",
        )  # fmt: skip
    with pytest.raises(PermanentError, match="belongs to no study"):
        command("audit", "export", "--out", str(tmp_path / "x"), "--everything", "7.7")
