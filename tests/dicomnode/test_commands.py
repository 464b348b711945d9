"""The commands as an administrator types them: output, JSON and exit codes.

Most run in-process through typer's runner with `main`'s own translation of errors; one runs
`python -m dicomnode`. `serve`, `receive`, `housekeep` and `work` are the system tests' matter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dicomnode.__main__ import app, main
from dicomnode.commands.options import local_time, table_of
from dicomnode.commands.person import account
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError, TransientError
from dicomnode.observe.figures import read_figures
from dicomnode.observe.troubles import Kind, find_troubles
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.commitment_tables import CommitmentRequestRow
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, DestinationRow, JobRow, StudyRow
from dicomnode.selftest.bundles import write_bundle
from dicomnode.series_writer import SeriesIdentity
from dicomnode.spool import Spool
from inference.bundle import read_bundle
from tests.databases import migrated_database
from tests.dicomnode.console import Command
from tests.dicomnode.outbox import Outbox
from tests.dicomnode.parts import PATIENT, Peer, arrival, image, peer_answering, save, write_config
from tests.dicomnode.test_metrics import add_delivery
from tests.phantoms import phantom, write_phantom

COMMANDS = {
    "serve": ["--config"],
    "receive": ["--config"],
    "housekeep": ["--config"],
    "work": ["--device", "--config"],
    "init": ["--ae-title", "--data", "--pacs-host"],
    "check": ["--listen", "--self-test", "--json"],
    "status": ["--json"],
    "jobs": ["--state", "--limit", "--json"],
    "replay": ["--job", "--study", "--dead", "--destination", "--check", "--mend"],
    "purge": ["--dry-run", "--json"],
    "backup": ["FOLDER", "--spool", "--json"],
    "restore": ["BACKUP", "--data"],
    "move-database": ["--config"],
    "explain": ["WHAT", "--other", "--conditions", "--json"],
    "segment": ["FOLDER", "--out", "--model", "--form"],
    "verify": ["FOLDER", "--json"],
    "echo": ["PEER"],
    "probe": ["PEER", "--dry-run", "--json"],
    "send": ["FOLDER", "PEER"],
    "audit show": ["IDENTIFIER", "--as", "--timing", "--json"],
    "audit list": ["--event", "--since", "--peer", "--outcome", "--model", "--before", "--limit"],
    "audit export": ["--out", "--format", "--since", "--everything", "--objects"],
    "audit verify": ["--anchors", "--public-key", "--json"],
    "audit anchor": ["--config"],
    "models list": ["--json"],
    "web": ["--config"],
    "users add": ["NAME", "--role", "--password-file", "--no-password"],
    "users change": ["NAME", "--role", "--password"],
    "users remove": ["NAME"],
    "users list": ["--json"],
    "models show": ["MODEL", "--json"],
    "models compare": ["LIVE", "CANDIDATE", "--json"],
    "models promote": ["MODEL", "--reason"],
    "models demote": ["MODEL", "--reason"],
    "models retire": ["MODEL", "--reason"],
    "models rollback": ["NAME", "--reason"],
}


@pytest.fixture(autouse=True)
def wide_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are not cut."""
    from dicomnode.commands.options import console

    monkeypatch.setattr(console, "width", 200)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    write_bundle(tmp_path / "models" / "threshold")
    return Command(write_config(tmp_path, '[models]\nfolder = "models"\n'))


@pytest.fixture
def known_study(command: Command) -> str:
    settings = load_settings(command.config)
    database = migrated_database(settings)
    spool = Spool(settings.spool)
    spool.prepare()
    Intake(spool, database, Audit("receiver")).take(arrival(image()))
    database.engine.dispose()
    return "1.2.3.4"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What the shell sees of `dicomnode ...`."""
    monkeypatch.setattr(sys, "argv", ["dicomnode", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_arguments(command: Command, name: str) -> None:
    told = command(*name.split(), "--help")
    for argument in COMMANDS[name]:
        assert argument in told or argument.lower() in told


def test_every_command_is_tested_here(command: Command) -> None:
    names = {c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands if c.callback}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        names |= {f"{group.name} {c.name}" for c in group.typer_instance.registered_commands}
    assert names == set(COMMANDS)


def test_python_m_dicomnode_with_a_wrong_configuration_ends_with_one_readable_message(
    tmp_path: Path,
) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\nae_title = "N"\n[[route]]\nname = "r"\nmodel = "m"\ndestinations = ["X"]\n')
    command = [sys.executable, "-m", "dicomnode", "status", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "node.data: missing; add it" in ended.stderr
    assert "no peer is called 'X' (known: none); add a [[peer]] or correct the name" in ended.stderr


@pytest.mark.parametrize("pattern", ["[/b", "(unclosed [a-z]"])
def test_a_message_with_brackets_is_printed_as_it_is(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    command.config.write_text(
        command.config.read_text().replace('"CT"', f'"CT"\nprotocol_name = "{pattern}"')
    )
    assert run_main(monkeypatch, "status", "--config", str(command.config)) == 1
    assert pattern in capsys.readouterr().err


def test_the_status_of_an_empty_node_has_nothing(command: Command) -> None:
    tables = ("studies", "jobs", "deliveries", "destinations")
    assert command("status").splitlines() == [f"{table}: none" for table in tables]
    nothing: dict[str, Any] = {"held_studies": {}, "troubled_destinations": [], "syslog_lag": {}}
    nothing |= {"acknowledged_unrecorded": 0, "uncommitted": []}
    assert command.json("status") == {table: {} for table in tables} | nothing


def test_a_lost_destination_is_named_in_the_status_and_can_be_tried_at_once(command: Command) -> None:
    command("status")
    database = Database(load_settings(command.config).database_url)
    with database.transaction() as session:
        later, since = utc_now() + timedelta(hours=1), datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
        session.add_all(
            [
                DestinationRow(
                    name="PACS", state="open", failures=4, reason="[away]", not_before=later, lost_at=since
                ),
                DestinationRow(
                    name="OTHER", state="closed", failures=1, reason="no answer", not_before=later
                ),
            ]
        )
    with database.snapshot() as session:
        figures = read_figures(session, frozenset())
        troubles = find_troubles(session, load_settings(command.config), figures, utc_now())
    (alert,) = (trouble for trouble in troubles if trouble.kind is Kind.DESTINATION_LOST)
    database.engine.dispose()
    told = command("status")
    assert "destinations: 1 closed, 1 open" in told
    assert (
        alert.text
        == "PACS counts as lost since 2026-03-01 09:30 UTC, results wait (4 failed attempts): [away]"
    )
    assert f"{alert.text}; next try {local_time(later)}" in told
    assert "sending to OTHER pauses after 1 failed attempt: no answer; next try" in told
    assert "queued again: a destination" in command("replay", "--destination", "PACS")
    assert "destination PACS is tried at once, by hand" in command("audit", "list", "--who", account())
    assert "next try at once" in command("status")


def test_the_status_says_what_stored_results_wait_for(command: Command, tmp_path: Path) -> None:
    settings = load_settings(command.config)
    command("status")
    outbox = Outbox(settings, Database(settings.database_url), tmp_path)
    for uid in ("1.7.1", "1.7.2"):
        outbox.add(uid)
    asked, again = datetime(2026, 3, 1, 9, 30, tzinfo=UTC), datetime(2026, 3, 1, 9, 40, tzinfo=UTC)
    outbox.change(state="stored", not_before=again)
    waiting = "2 result(s) stored at PACS wait for it to commit to them: "
    told = " ".join(command("status").split())
    assert f"{waiting}not asked yet, asks again {local_time(again)}" in told
    with outbox.database.transaction() as session:
        session.add(
            CommitmentRequestRow(transaction_uid="2.25.1", destination="PACS", job_id=1, asked_at=asked)
        )
    outbox.change(transaction_uid="2.25.1", commitment_attempt=1)
    told = " ".join(command("status").split())
    assert f"{waiting}asked {local_time(asked)}, asks again {local_time(again)}" in told
    (row,) = command.json("status")["uncommitted"]
    assert (row["destination"], row["count"]) == ("PACS", 2)
    outbox.change(state="delivered")
    assert "wait for it to commit" not in command("status")
    outbox.database.engine.dispose()


def test_a_held_study_is_told_with_its_reason(command: Command, known_study: str) -> None:
    database = Database(load_settings(command.config).database_url)
    reason = "2000 jobs wait for a worker, as many as may (limit 2000)"
    with database.transaction() as session:
        study = session.get_one(StudyRow, known_study)
        study.state, study.held_reason = "complete", reason
    database.engine.dispose()
    assert f"1 complete not routed yet: {reason}" in command("status")
    assert command.json("status")["held_studies"] == {reason: 1}


def test_dead_letters_to_a_peer_that_is_gone_are_named_and_left(command: Command) -> None:
    database = migrated_database(load_settings(command.config))
    for number in (1, 2):
        add_delivery(database, "dead", age_s=10, number=number)
    with database.transaction() as session:
        session.get_one(DeliveryRow, 1).destination = "GONE"
    told = " ".join(command("replay", "--dead").split())
    assert "left as they are: 1 result(s) for GONE, which is no configured peer" in told
    assert "1 x delivery" in told
    with database.snapshot() as session:
        assert [session.get_one(DeliveryRow, n).state for n in (1, 2)] == ["dead", "waiting"]
    database.engine.dispose()


def test_the_status_counts_by_state(command: Command, known_study: str) -> None:
    assert "studies: 1 receiving" in command("status")
    assert command.json("status")["studies"] == {"receiving": 1}
    assert command.json("jobs") == []
    assert "State" in command("jobs")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "show", "9.9"], "nothing is known under '9.9'"),
        (["audit", "list", "--before", "77"], "there is no event 77"),
        (["replay"], "say what to replay: --job NUMBER, --study IDENTIFIER, --dead or --destination NAME"),
        (["replay", "--job", "5"], "nothing to replay"),
        (["replay", "--dead"], "nothing to replay"),
        (["echo", "NOBODY"], "no peer is called 'NOBODY' (known: PACS); add a [[peer]]"),
        (["echo", "PACS"], "peer PACS does not answer"),
        (["explain", "/nowhere"], "/nowhere is not a folder"),
        (["segment", "/nowhere", "--out", "/tmp/x"], "/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_done_ends_with_exit_code_1_and_says_why(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    assert run_main(monkeypatch, *arguments, "--config", str(command.config)) == 1
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""


def test_a_node_whose_database_was_lost_does_not_begin_anew_beside_its_images(
    command: Command, known_study: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = load_settings(command.config).node.data / "node.sqlite"
    file.rename(file.with_name("lost"))
    monkeypatch.setenv("DICOMNODE_CONFIG", str(command.config))
    assert run_main(monkeypatch, "status") == 1
    assert "the database that knows them is not there" in capsys.readouterr().err
    file.with_name("lost").rename(file)
    assert command.json("status", "--json")["studies"] == {"receiving": 1}


def test_a_data_folder_that_this_user_may_not_use_is_named_with_the_remedy(tmp_path: Path) -> None:
    command = Command(write_config(tmp_path))
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(TransientError, match=r"data cannot be used \(.*\); run this as the user of the node"):
        command("status")


def test_the_status_says_how_far_syslog_receivers_are_behind(tmp_path: Path) -> None:
    more = '[[audit.syslog]]\nname = "siem"\nhost = "127.0.0.1"\nport = 6514\n'
    command = Command(write_config(tmp_path, more))
    assert "syslog siem: has everything; nothing sent yet" in command("status")
    database = Database(load_settings(command.config).database_url)
    with database.transaction() as session:
        Audit("test").record(session, Event.STUDY_REPLAYED, Subject("1.2"))
    assert "syslog siem: 1 event(s), " in command("status")
    assert command.json("status")["syslog_lag"]["siem"]["events"] == 1


def test_a_dead_job_is_listed_and_replayed(command: Command, known_study: str) -> None:
    database = Database(load_settings(command.config).database_url)
    with database.transaction() as session:
        now = utc_now()
        session.add(
            JobRow(
                study_instance_uid=known_study, series_instance_uid="1.2", generation=1, route="r",
                destinations={}, model="m", model_digest="d", input_digest="i", notes={}, priority=0,
                not_before=now, created_at=now, state="failed", attempt=3, error="broken [/x]", shadow=True,
            )
        )  # fmt: skip
        Audit("t").record(session, Event.JOB_FAILED, Subject(known_study, job_id=1), reason="broken [/x]")
    assert "broken [/x]" in command("jobs", "--state", "failed")
    assert "m (shadow)" in command("jobs")
    assert command.json("jobs")[0]["error"] == "broken [/x]"
    assert "broken [/x]" in command("audit", "show", known_study)
    assert "broken [/x]" in command("audit", "list")
    assert "1 x job" in command("replay", "--study", PATIENT["AccessionNumber"])
    assert command.json("jobs")[0]["state"] == "queued"


def test_models_are_promoted_and_rolled_back_by_command(command: Command) -> None:
    candidate = write_bundle(command.config.parent / "models" / "new", version="1.1.0")
    states = {row["version"]: row["state"] for row in command.json("models", "list")}
    assert states == {"1.0.0": "live", "1.1.0": "shadow"}
    told = command("models", "promote", "threshold@1.1.0", "--reason", "no lesion lost")
    assert "threshold 1.1.0" in told and "is live" in told
    states = {row["version"]: row["state"] for row in command.json("models", "list")}
    assert states == {"1.0.0": "retired", "1.1.0": "live"}
    shown = command.json("models", "show", read_bundle(candidate).digest[:10])
    assert (shown["state"], shown["reason"], shown["limit"]) == ("live", "no lesion lost", "live")
    assert "threshold 1.0.0" in command("models", "rollback", "threshold", "--reason", "complaints")
    with pytest.raises(PermanentError, match="no version of 'other' is live"):
        command("models", "rollback", "other", "--reason", "x")


def test_models_are_listed_with_what_is_unusable(command: Command) -> None:
    broken = write_bundle(command.config.parent / "models" / "broken", name="broken")
    (broken / "models" / "model.pt").write_bytes(b"changed")
    told = command("models", "list")
    assert "threshold" in told
    assert "unusable broken" in told
    (row,) = command.json("models", "list")
    assert (row["name"], row["state"], row["modality"]) == ("threshold", "live", "CT")


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    identity = SeriesIdentity(series_description="Axial [/bold] lung")
    write_phantom(phantom(spacing_mm=(8.0, 2.0, 2.0)), folder, identity)
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def test_explain_says_which_route_takes_a_series_and_what_was_skipped(
    command: Command, study_folder: Path
) -> None:
    told = command("explain", str(study_folder))
    assert "matches route 'lesions'" in told
    assert "Axial [/bold] lung" in told
    assert "skipped notes.txt" in told
    (decision,) = command.json("explain", str(study_folder))
    assert (decision["route"], decision["model"], decision["instance_count"]) == ("lesions", "threshold", 12)
    assert decision["checks"]["lesions"][0]["passed"] is True


def test_segment_writes_objects_measurements_and_pictures(
    command: Command, study_folder: Path, tmp_path: Path
) -> None:
    (summary,) = command.json("segment", str(study_folder), "--out", str(tmp_path / "out"))
    written = {path.name for path in Path(summary["folder"]).iterdir()}
    assert written >= {
        "seg.dcm",
        "sr_measurements.dcm",
        "sr_volumes.dcm",
        "measurements.json",
        "lesion-01.png",
    }
    assert len([name for name in written if name.endswith(".png")]) == summary["lesion_count"] == 3
    record = json.loads((Path(summary["folder"]) / "measurements.json").read_text())
    assert record["lesions"][0]["volume"]["unit"] == "mm3"
    told = command("segment", str(study_folder), "--out", str(tmp_path / "out"), "--model", "threshold")
    assert "Long axis" in told


def test_a_series_that_cannot_be_segmented_ends_with_exit_code_1(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    save(image(), folder / "one.dcm")
    told = command("segment", str(folder), "--out", str(tmp_path / "out"), code=1)
    assert "failed series 1.2.3.4.5" in told


@pytest.fixture
def reachable(tmp_path: Path) -> Any:
    with peer_answering(0x0000, 0xC000) as peer:
        yield peer, Command(write_config(tmp_path, peer_port=peer.port))


def test_echo_and_send_talk_to_a_peer(reachable: tuple[Peer, Command], tmp_path: Path) -> None:
    peer, command = reachable
    assert "PACS answers at 127.0.0.1" in command("echo", "PACS")
    folder = tmp_path / "files"
    for number in range(3):
        save(image(SOPInstanceUID=f"1.2.{number}"), folder / f"{number}.dcm")
    told = command("send", str(folder), "PACS", code=1)
    assert "2 of 3 accepted by PACS" in told
    assert "1.dcm: C000" in told
    assert peer.received == ["1.2.0", "1.2.1", "1.2.2"]
    assert "3 of 3 accepted" in command("send", str(folder), "PACS")
    (folder / "broken.dcm").write_bytes(b"x")
    told = command("send", str(folder), "PACS", code=1)
    assert "broken.dcm: not sent, not a DICOM file" in told
    assert "3 of 3 accepted" in told


def test_check_finds_what_is_wrong_and_says_so(reachable: tuple[Peer, Command]) -> None:
    _, command = reachable
    told = command("check", code=1)
    assert "peer PACS: PACS answers" in told
    assert "route lesions: no usable model is called 'threshold'" in told
    write_bundle(command.config.parent / "models" / "threshold")
    assert not any(line.startswith("wrong") for line in command("check").splitlines())


def test_a_pipe_gets_whole_lines_and_a_terminal_folded_ones(tmp_path: Path) -> None:
    name = "a-model-whose-name-is-longer-than-most"
    config = write_config(tmp_path, f'[models]\nfolder = "{tmp_path}/models"\n')
    write_bundle(tmp_path / "models" / name, name=name)
    listed = [sys.executable, "-m", "dicomnode", "models", "list", "--config", str(config)]
    piped = subprocess.run(listed, capture_output=True, text=True, check=True, timeout=120).stdout
    assert any(name in line and "Threshold phantom model" in line for line in piped.splitlines()), piped
    shown = StringIO()
    table = table_of("Name", "Digest")
    table.add_row(name, "1" * 64)
    Console(file=shown, width=40).print(table)
    letters = re.sub(r"[^a-z1-]", "", shown.getvalue())
    assert max(map(len, shown.getvalue().splitlines())) <= 40
    assert letters.count("1") == 64, "nothing is cut"
