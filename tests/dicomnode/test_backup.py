"""Backups of a node that receives, and what becomes of them elsewhere.

Real stores go over the network into a real listener while the backup is made. The worker is left out: the
results that wait are made by hand, and their delivery after restoring is real again.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid
from sqlalchemy import select, text
from sqlalchemy.orm import Session

import dicomnode.backups.make
from dicomnode.backups.databases import saved_database
from dicomnode.backups.make import Made, make_backup
from dicomnode.backups.manifest import DATABASE, MANIFEST, Content, file_sha256, read_manifest
from dicomnode.backups.restore import restore_backup
from dicomnode.config import load_settings
from dicomnode.deliver.delivery import Delivery
from dicomnode.deliver.sender import send
from dicomnode.errors import PermanentError
from dicomnode.receive.listener import Listener
from dicomnode.records.anchoring import anchor_of_the_day
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, InstanceRow, JobRow, ResultRow, StudyRow
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.parts import events, image, peer_answering, save, write_config

ADMIN = Audit("admin test")


@dataclass
class Node:
    """A node without a worker, with what it holds."""

    config: Path
    settings: Settings
    database: Database

    def backup(self, content: Content = Content.UNFINISHED) -> Made:
        target = self.config.parent / "backups"
        return make_backup(self.settings, self.database, ADMIN, self.config, target, content)

    def add_result(self, study_uid: str, state: str) -> str:
        """A result file with a delivery; its study is done."""
        uid = generate_uid()
        path = Spool(self.settings.spool).result_path(study_uid, uid, "1-1")
        save(image(SOPInstanceUID=uid, StudyInstanceUID=study_uid), path)
        with self.database.transaction() as session:
            now = utc_now()
            if session.get(StudyRow, study_uid) is None:
                session.add(
                    StudyRow(
                        study_instance_uid=study_uid, state="routed", patient_id="", accession_number="",
                        calling_ae_title="PACS", first_received_at=now, last_received_at=now,
                    )
                )  # fmt: skip
                session.flush()
            job = JobRow(
                study_instance_uid=study_uid, series_instance_uid="1.2", generation=1, route="lesions",
                destinations={}, model="m", model_digest=uid, input_digest=uid, notes={}, priority=0,
                not_before=now, created_at=now, state="succeeded",
            )  # fmt: skip
            session.add(job)
            session.flush()
            session.add(
                ResultRow(
                    sop_instance_uid=uid, job_id=job.id, kind="seg", sop_class_uid="1.2",
                    study_instance_uid=study_uid, series_instance_uid="1.9", instance_number=1,
                    sha256=file_sha256(path), path=str(path), created_at=now,
                )
            )  # fmt: skip
            session.flush()
            session.add(
                DeliveryRow(
                    sop_instance_uid=uid, job_id=job.id, destination="PACS", state=state, not_before=now
                )
            )
            ADMIN.record(session, Event.RESULT_CREATED, Subject(study_uid), kind="seg", sha256="")
        return uid


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "old"
    folder.mkdir()
    config = write_config(folder)
    settings = load_settings(config)
    database = migrated_database(settings)
    Spool(settings.spool).prepare()
    yield Node(config, settings, database)
    database.engine.dispose()


def restored(made: Made, folder: Path, data: Path | None = None) -> tuple[Settings, Database]:
    """The backup brought back into `folder`."""
    found = restore_backup(made.folder, folder / "node.toml", data, ADMIN)
    return found.settings, Database(found.settings.database_url)


def send_until(stopping: threading.Event, node: Node, folder: Path, sent: list[str]) -> None:
    """One study after the other, as a PACS that forwards, until it is enough."""
    us = PeerSettings(name="us", ae_title="LESIONNODE", host="127.0.0.1", port=node.settings.node.port)
    while not stopping.is_set():
        study = generate_uid()
        paths = [
            save(image(SOPInstanceUID=generate_uid(), StudyInstanceUID=study), folder / f"{number}.dcm")
            for number in range(5)
        ]
        for response in send("PACS", us, paths, 60.0):
            assert response.status.startswith("0000"), response
            sent.append(str(response.path))


def wait_for(condition: Any, timeout_s: float = 120.0) -> None:
    waiting = threading.Event()
    for _ in range(int(timeout_s / 0.05)):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("waited in vain")


def test_a_backup_while_the_node_receives_fits_together_and_the_work_goes_on_elsewhere(
    node: Node, tmp_path: Path
) -> None:
    waiting = node.add_result("1.2.3", "waiting")
    node.add_result("1.2.4", "delivered")
    listener = Listener(node.settings, node.database, Spool(node.settings.spool))
    listener.start()
    stopping, sent = threading.Event(), list[str]()
    sender = threading.Thread(target=send_until, args=(stopping, node, tmp_path / "sent", sent))
    sender.start()
    try:
        wait_for(lambda: len(events(node.database, "instance_received")) > 5)
        made = node.backup()
        at_backup = len(sent)
        wait_for(lambda: len(sent) > at_backup + 5)
    finally:
        stopping.set()
        sender.join()
        listener.stop()
    assert made.manifest.missing == ()

    settings, database = restored(made, tmp_path / "new")
    with database.snapshot() as session:
        assert verify_chain(session).faults == ()
        images = session.scalars(select(InstanceRow)).all()
        assert 5 < len(images) < len(sent)
        for row in images:
            assert Path(row.path).is_relative_to(settings.spool)
            assert Path(row.path).stat().st_size > 0
        results = {row.sop_instance_uid: Path(row.path) for row in session.scalars(select(ResultRow))}
    assert results[waiting].is_relative_to(settings.spool)
    assert [uid for uid, path in results.items() if path.exists()] == [waiting]
    with peer_answering() as pacs:
        peer = settings.peers["PACS"].model_copy(update={"port": pacs.port})
        Delivery(settings, database).push(peer)
        assert pacs.received == [waiting]
    assert events(database)[-1][0] == "result_delivered"
    told = events(database, "backup_restored")
    assert told[0][1]["manifest_sha256"] == made.manifest_sha256 == file_sha256(made.folder / MANIFEST)
    assert events(node.database, "backup_made")[0][1]["manifest_sha256"] == made.manifest_sha256


@pytest.mark.parametrize(
    ("content", "files"),
    [(Content.NONE, 0), (Content.UNFINISHED, 1), (Content.RESULTS, 2), (Content.ALL, 2)],
)
def test_the_spool_is_saved_as_far_as_it_was_asked_for(node: Node, content: Content, files: int) -> None:
    node.add_result("1.2.3", "dead")
    node.add_result("1.2.4", "delivered")
    made = node.backup(content)
    assert len([name for name in made.manifest.files if name.startswith("spool/")]) == files
    assert not [path for path in made.folder.parent.iterdir() if path != made.folder]


def test_restoring_to_another_data_folder_changes_the_configuration(node: Node, tmp_path: Path) -> None:
    settings, _ = restored(node.backup(), tmp_path / "new", data=tmp_path / "elsewhere" / "data")
    assert settings.node.data == tmp_path / "elsewhere" / "data"
    again = load_settings(tmp_path / "new" / "node.toml")
    assert again.node.data == settings.node.data
    assert again.node.port == node.settings.node.port


def test_what_is_missing_on_the_disk_is_named(node: Node) -> None:
    uid = node.add_result("1.2.3", "waiting")
    with node.database.snapshot() as session:
        Path(session.get_one(ResultRow, uid).path).unlink()
    assert [name.split("/")[0] for name in node.backup().manifest.missing] == ["results"]


def damage_file(backup: Path) -> None:
    (path,) = backup.glob("spool/results/*/*.dcm")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove_file(backup: Path) -> None:
    next(backup.glob("spool/results/*/*.dcm")).unlink()


def add_file(backup: Path) -> None:
    (backup / "spool" / "more.dcm").write_bytes(b"x")


def tamper_trail(backup: Path) -> None:
    """Somebody who computes the digest anew still cannot change the trail."""
    database = Database(f"sqlite:///{backup / DATABASE}")
    with database.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER audit_events_no_update"))
        connection.execute(text("UPDATE audit_events SET actor = 'nobody' WHERE id = 1"))
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
        connection.exec_driver_sql("BEGIN")
    database.engine.dispose()
    content = json.loads((backup / MANIFEST).read_text())
    content["files"][DATABASE] = file_sha256(backup / DATABASE)
    (backup / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_file, "was changed since the backup was made"),
        (remove_file, "is missing from the backup"),
        (add_file, "which its manifest does not know"),
        (tamper_trail, "broken at event 1"),
        (lambda backup: (backup / MANIFEST).unlink(), "is not a backup"),
        (lambda backup: (backup / MANIFEST).write_text("{}"), "is not a manifest"),
    ],
)
def test_a_backup_that_does_not_hold_is_refused_and_leaves_nothing(
    node: Node, tmp_path: Path, damage: Any, says: str
) -> None:
    node.add_result("1.2.3", "waiting")
    made = node.backup()
    damage(made.folder)
    with pytest.raises(PermanentError, match=says):
        restored(made, tmp_path / "new")
    new = tmp_path / "new"
    assert not new.exists() or list(new.iterdir()) == []


def test_nothing_is_overwritten(node: Node, tmp_path: Path) -> None:
    made = node.backup()
    with pytest.raises(PermanentError, match=r"node\.toml is there already"):
        restore_backup(made.folder, node.config, None, ADMIN)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    with pytest.raises(PermanentError, match="is not empty"):
        restored(made, tmp_path / "new", data=full)
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert list((tmp_path / "new").iterdir()) == []


def test_profiles_and_anchors_come_back(node: Node, tmp_path: Path) -> None:
    profiles = node.config.parent / "profiles"
    profiles.mkdir()
    (profiles / "OTHER.toml").write_text("")
    made = node.backup()
    assert read_manifest(made.folder).files["profiles/OTHER.toml"] == file_sha256(profiles / "OTHER.toml")
    restored(made, tmp_path / "new")
    assert (tmp_path / "new" / "profiles" / "OTHER.toml").exists()


def test_a_backup_during_which_an_anchor_is_written_can_be_restored(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_result("1.2.3", "delivered")

    @contextmanager
    def midnight_comes(database: Database, folder: Path) -> Iterator[Session]:
        with saved_database(database, folder) as session:
            yield session
        node.add_result("1.2.4", "delivered")
        assert anchor_of_the_day(node.database, ADMIN, node.settings.anchors, None)

    monkeypatch.setattr(dicomnode.backups.make, "saved_database", midnight_comes)
    made = node.backup()
    monkeypatch.undo()
    _, database = restored(made, tmp_path / "new")
    assert len(events(database, "result_created")) == 1


def test_the_files_of_a_backup_are_for_the_service_user_only(node: Node) -> None:
    made = node.backup()
    assert made.folder.stat().st_mode & 0o077 == 0
    shutil.rmtree(made.folder)


def test_a_data_folder_that_is_a_disk_of_its_own_is_filled_and_not_exchanged(
    node: Node, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    inode = disk.stat().st_ino
    restored(node.backup(), tmp_path / "new", data=disk)
    assert disk.stat().st_ino == inode
    assert sorted(path.name for path in disk.iterdir()) == ["lost+found", "node.sqlite", "spool"]


def test_a_restore_that_fails_leaves_the_disk_empty(node: Node, tmp_path: Path) -> None:
    node.add_result("1.2.3", "waiting")
    made = node.backup()
    tamper_trail(made.folder)
    disk = tmp_path / "disk"
    disk.mkdir()
    with pytest.raises(PermanentError, match="broken at event 1"):
        restored(made, tmp_path / "new", data=disk)
    assert list(disk.iterdir()) == []


def test_what_root_brings_back_belongs_to_whom_the_data_folder_does(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_result("1.2.3", "waiting")
    (node.config.parent / "profiles").mkdir()
    (node.config.parent / "profiles" / "OTHER.toml").write_text("")
    node.settings.anchors.write_bytes(b"")
    made = node.backup()
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.chown", lambda path, uid, gid: given.append((Path(path).name, uid, gid)))
    settings, _ = restored(made, tmp_path / "new")
    owner = settings.node.data.stat()
    assert {(uid, gid) for _, uid, gid in given} == {(owner.st_uid, owner.st_gid)}
    names = {name for name, _, _ in given}
    assert names >= {"spool", "node.sqlite", "audit-anchors.jsonl", "profiles", "OTHER.toml"}
    assert [name for name in names if name.endswith(".restoring.toml")], "the configuration too"
    assert [name for name in names if name.endswith(".dcm")]
