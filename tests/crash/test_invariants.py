"""The independent checker complains about every damage, and about nothing else.

Not covered: databases other than SQLite.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.deliver.delivery import Delivery
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.selftest.bundles import write_bundle
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.spool import Spool
from tests.crash.invariants import Sent, complaints, data_set_digest
from tests.databases import migrated_database
from tests.dicomnode.parts import peer_answering, settings_in
from tests.dicomnode.test_worker import Node
from tests.phantoms import phantom
from tests.phantoms.dicom import set_sop_instance_uid

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sent]:
    """The data folder of a node that received, worked on and delivered one study."""
    folder = tmp_path_factory.mktemp("node")
    files = write_series(phantom(spacing_mm=(8.0, 2.0, 2.0)).volume, folder / "sent", SeriesIdentity())
    write_bundle(folder / "models" / "threshold")
    with peer_answering() as pacs:
        settings = settings_in(folder, '[models]\nfolder = "models"\n', peer_port=pacs.port)
        database, spool = migrated_database(settings), Spool(settings.spool)
        spool.prepare()
        node = Node(settings, database, Intake(spool, database, Audit("receiver")), files)
        node.receive(files)
        node.route()
        assert node.work()
        Delivery(settings, database).push(settings.peer[0])
    database.engine.dispose()
    acknowledged = {str(dcmread(path).SOPInstanceUID): data_set_digest(path.read_bytes()) for path in files}
    return settings.node.data, Sent(acknowledged, frozenset({node.study_uid}))


@pytest.fixture
def copy(intact: tuple[Path, Sent], tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact[0], tmp_path / "data"))


class Shown:
    """Stands in for Orthanc's REST interface, for the objects of a folder."""

    def __init__(self, folder: Path) -> None:
        files = {str(index): path for index, path in enumerate(sorted(folder.rglob("*.dcm")))}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["Query"]
                headers = {name: dcmread(path, stop_before_pixels=True) for name, path in files.items()}
                found = [
                    {"ID": name, "MainDicomTags": {"SOPInstanceUID": header.SOPInstanceUID}}
                    for name, header in headers.items()
                    if header.Modality == query["Modality"]
                ]
                self.answer(json.dumps(found).encode())

            def do_GET(self) -> None:
                self.answer(files[self.path.split("/")[2]].read_bytes())

            def answer(self, content: bytes) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def pacs(copy: Path) -> Iterator[Callable[[], str]]:
    """Shows what is in the results folder when it is asked for."""
    opened: list[Shown] = []

    def show() -> str:
        opened.append(Shown(copy / "spool" / "results"))
        return opened[-1].url

    yield show
    for shown in opened:
        shown.server.shutdown()


def change(statement: str) -> Damage:
    """Change the database behind the node's back; whoever can do that removes the triggers first."""

    def damage(data: Path) -> None:
        with closing(sqlite3.connect(data / "node.sqlite")) as database:
            for (trigger,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                database.execute(f"DROP TRIGGER {trigger}")
            assert database.execute(statement).rowcount == 1
            database.commit()

    return damage


def on_one_file(pattern: str, act: Callable[[Path], object]) -> Damage:
    """Do something to the first file of the spool that fits."""
    return lambda data: act(sorted((data / "spool").rglob(pattern))[0])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def repeat_job(data: Path) -> None:
    with closing(sqlite3.connect(data / "node.sqlite")) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
        other = {"id": "99", "input_digest": "'other'"}
        values = ", ".join(other.get(column, column) for column in columns)
        database.execute(f"INSERT INTO jobs SELECT {values} FROM jobs")
        database.commit()


LAST = "(SELECT max(id) FROM audit_events)"
DAMAGES = {
    "a missing image": (on_one_file("studies/*/*/*.dcm", Path.unlink), "file is missing"),
    "a missing result": (on_one_file("results/*/*.dcm", Path.unlink), "file is missing"),
    "a flipped bit in an image": (on_one_file("studies/*/*/*.dcm", flip), "another digest"),
    "a flipped bit in a result": (on_one_file("results/*/*.dcm", flip), "another digest"),
    "half a file": (on_one_file("studies/*/*/*.dcm", lambda path: path.with_suffix(".part").touch()),
                    "file without a row"),
    "an image that is recorded no more": (
        change("DELETE FROM instances WHERE id = 3"), "acknowledged instance is not recorded"),
    "an image with the content of another": (
        change("UPDATE instances SET sha256 = 'x' WHERE id = 3"), "acknowledged instance is not recorded"),
    "a study that waits for ever": (change("UPDATE studies SET state = 'complete'"), "is complete"),
    "a purged image that is still there": (
        change("UPDATE instances SET purged_at = received_at WHERE id = 3"), "purged and still there"),
    "a stuck job": (change("UPDATE jobs SET state = 'running'"), "is running"),
    "a failed job": (change("UPDATE jobs SET state = 'failed'"), "is failed"),
    "a stuck delivery": (change("UPDATE deliveries SET state = 'sending' WHERE id = 1"), "is sending"),
    "a result without a delivery": (change("DELETE FROM deliveries WHERE id = 2"), "has no delivery"),
    "a changed audit row": (change("UPDATE audit_events SET actor = 'nobody' WHERE id = 4"), "4 was changed"),
    "a removed audit row": (change("DELETE FROM audit_events WHERE id = 4"), "audit row 4 is missing"),
    "a removed last audit row": (change(f"DELETE FROM audit_events WHERE id = {LAST}"), "result_delivered"),
    "a study that was worked on twice": (repeat_job, "has 2 jobs that succeeded"),
}  # fmt: skip


def test_a_node_without_fault_gets_no_complaint(
    intact: tuple[Path, Sent], copy: Path, pacs: Callable[[], str]
) -> None:
    assert complaints(copy, intact[1], pacs()) == []


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_noticed(name: str, intact: tuple[Path, Sent], copy: Path) -> None:
    damage, complaint = DAMAGES[name]
    damage(copy)
    found = complaints(copy, intact[1])
    assert any(complaint in line for line in found), found


def test_an_image_that_never_came_is_noticed(intact: tuple[Path, Sent], copy: Path) -> None:
    sent = Sent({**intact[1].acknowledged, "1.2.3": "0" * 64}, intact[1].studies)
    assert complaints(copy, sent) == ["acknowledged instance is not recorded: 1.2.3"]


def test_a_study_without_any_trace_is_noticed(copy: Path) -> None:
    assert "study 1.2.3 has 0 jobs that succeeded" in complaints(copy, Sent({}, frozenset({"1.2.3"})))


def test_a_second_result_set_in_the_pacs_is_noticed(
    intact: tuple[Path, Sent], copy: Path, pacs: Callable[[], str]
) -> None:
    for path in list((copy / "spool" / "results").rglob("*.dcm")):
        again = dcmread(path)
        set_sop_instance_uid(again, f"{again.SOPInstanceUID[:60]}.9")
        again.save_as(path.with_name(f"again_{path.name}"))
    found = complaints(copy, intact[1], pacs())
    assert any("shows {'SEG': 2, 'SR': 4} in the PACS" in line for line in found), found
    assert sum("which the node does not know" in line for line in found) == 3


def test_a_report_that_never_reached_the_pacs_is_noticed(
    intact: tuple[Path, Sent], copy: Path, pacs: Callable[[], str]
) -> None:
    url = pacs()
    shown = sorted((copy / "spool" / "results").rglob("*.dcm"))
    report = next(path for path in shown if dcmread(path).Modality == "SR")
    original = report.read_bytes()
    report.write_bytes(next(path for path in shown if dcmread(path).Modality == "SEG").read_bytes())
    found = complaints(copy, intact[1], url)
    report.write_bytes(original)
    assert any("shows {'SEG': 2, 'SR': 1} in the PACS" in line for line in found), found
