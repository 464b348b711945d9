"""Files of what is done and old go, nothing else ever does, and a crash in between leaves no lie."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.deliver.holdings import NO_SUCH_OBJECT, why_not_held
from dicomnode.deliver.references import Reference
from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake, Outcome, Recorded
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, InstanceRow, JobRow, ResultRow, StudyRow
from dicomnode.replay import replay_of_study
from dicomnode.retention import Retention
from dicomnode.route.dispatch import Dispatch
from dicomnode.settings.node import Settings
from dicomnode.settings.retention import RetentionSettings
from dicomnode.spool import Spool
from dicomnode.sweep import ORPHAN_AGE_S, Sweep
from inference.registry import Registry
from tests.dicomnode.console import Command
from tests.dicomnode.parts import arrival, events, image, own_result, wait_until, write_config

pytestmark = pytest.mark.both_databases

STUDY = "1.2.3.4"
LONG_AGO = timedelta(days=40)
BOTH = RetentionSettings(inputs_days=30, results_days=30)


@pytest.fixture
def retention(database: Database) -> Retention:
    return Retention(BOTH, database, Audit("housekeeping"))


@pytest.fixture
def sweep(spool: Spool, database: Database) -> Sweep:
    return Sweep(spool, database)


@pytest.fixture
def images() -> list[FileDataset]:
    return [image(SOPInstanceUID=generate_uid(), SeriesInstanceUID=f"{STUDY}.{n % 2}") for n in range(4)]


@pytest.fixture
def done(intake: Intake, database: Database, spool: Spool, images: list[FileDataset]) -> None:
    """A study whose result was delivered 40 days ago; the archive sent the result back, too."""
    for sent in images:
        intake.take(arrival(sent))
    intake.take(arrival(own_result()))
    path = spool.result_path(STUDY, "1.2.1", "1-1")
    spool.write(path, b"a segmentation")
    then = utc_now() - LONG_AGO
    with database.transaction() as session:
        study = session.get_one(StudyRow, STUDY)
        study.state, study.last_received_at = "routed", then
        for row in session.scalars(select(InstanceRow)):
            row.received_at = then
        job = JobRow(
            study_instance_uid=STUDY, series_instance_uid="1.2", generation=1, route="r",
            destinations={"names": ["PACS"]}, model="m", model_digest="d", input_digest="i",
            notes={"lines": []}, priority=0, not_before=then, created_at=then, finished_at=then,
            state="succeeded",
        )  # fmt: skip
        session.add(job)
        session.flush()
        session.add(
            ResultRow(
                sop_instance_uid="1.2.1", job_id=job.id, kind="seg", sop_class_uid="1",
                study_instance_uid=STUDY, series_instance_uid="1.9", instance_number=1, sha256="5" * 64,
                path=str(path), created_at=then,
            )
        )  # fmt: skip
        session.flush()
        session.add(
            DeliveryRow(
                sop_instance_uid="1.2.1", job_id=job.id, destination="PACS", state="delivered",
                not_before=then, delivered_at=then,
            )
        )  # fmt: skip


def files(spool: Spool) -> set[Path]:
    return set(spool.files())


def here(database: Database) -> set[Path]:
    """The files whose rows say that they are here."""
    with database.snapshot() as session:
        return {
            Path(path)
            for table in (InstanceRow, ResultRow)
            for path in session.scalars(select(table.path).where(table.purged_at.is_(None)))
        }


def change(database: Database, alter: Callable[[Session], None]) -> None:
    with database.transaction() as session:
        alter(session)


@pytest.mark.usefixtures("done")
def test_what_is_done_and_old_goes_and_the_trail_keeps_its_digests(
    retention: Retention, database: Database, spool: Spool
) -> None:
    assert len(files(spool)) == 6
    with database.snapshot() as session:
        digests = {row.sha256 for row in session.scalars(select(InstanceRow))} | {"5" * 64}
    (gone,) = retention.purge_due()
    assert (len(gone.inputs), len(gone.results)) == (5, 1)
    assert files(spool) == here(database) == set()
    told = [detail for _, detail in events(database, "instances_purged")]
    assert {(detail["kind"], detail["instance_count"]) for detail in told} == {
        ("inputs", 2), ("inputs", 1), ("results", 1)
    }  # fmt: skip
    assert {digest for detail in told for digest in detail["sha256"]} == digests
    with database.snapshot() as session:
        assert all(row.purged_at is not None for row in session.scalars(select(InstanceRow)))
    assert retention.purge_due() == []


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (RetentionSettings(), 6),
        (RetentionSettings(inputs_days=30), 1),
        (RetentionSettings(results_days=30), 5),
        (RetentionSettings(inputs_days=41, results_days=41), 6),
    ],
)
def test_inputs_and_results_have_ages_of_their_own(
    rules: RetentionSettings, left: int, database: Database, spool: Spool
) -> None:
    Retention(rules, database, Audit("housekeeping")).purge_due()
    assert len(files(spool)) == left
    assert files(spool) == here(database)


def study_is(state: str) -> Callable[[Session], None]:
    def alter(session: Session) -> None:
        session.get_one(StudyRow, STUDY).state = state

    return alter


def job_is(state: str) -> Callable[[Session], None]:
    def alter(session: Session) -> None:
        session.get_one(JobRow, 1).state = state

    return alter


def delivery_is(state: str) -> Callable[[Session], None]:
    def alter(session: Session) -> None:
        session.get_one(DeliveryRow, 1).state = state

    return alter


def delivered_yesterday(session: Session) -> None:
    session.get_one(DeliveryRow, 1).delivered_at = utc_now() - timedelta(days=1)


def finished_yesterday(session: Session) -> None:
    session.get_one(JobRow, 1).finished_at = utc_now() - timedelta(days=1)


def image_came_yesterday(session: Session) -> None:
    session.get_one(InstanceRow, 1).received_at = utc_now() - timedelta(days=1)


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize(
    "alter",
    [
        *(study_is(state) for state in ("receiving", "complete", "parked")),
        *(job_is(state) for state in ("queued", "running", "failed")),
        *(delivery_is(state) for state in ("waiting", "sending", "dead", "a state to come")),
        delivered_yesterday,
        finished_yesterday,
        image_came_yesterday,
    ],
)
def test_what_is_open_failed_undelivered_or_young_stays(
    alter: Callable[[Session], None], retention: Retention, database: Database, spool: Spool
) -> None:
    change(database, alter)
    assert retention.purge_due() == []
    assert len(files(spool)) == 6


@pytest.mark.usefixtures("done")
def test_a_study_that_no_route_wanted_goes_too(
    retention: Retention, database: Database, spool: Spool
) -> None:
    def ignored(session: Session) -> None:
        session.get_one(StudyRow, STUDY).state = "ignored"
        for table in (DeliveryRow, ResultRow, JobRow):
            for row in session.scalars(select(table)):
                session.delete(row)
            session.flush()

    change(database, ignored)
    (gone,) = retention.purge_due()
    assert len(gone.inputs) == 5


@pytest.mark.usefixtures("done")
def test_a_purged_instance_that_is_sent_again_is_kept_again_and_makes_no_work(
    retention: Retention, database: Database, spool: Spool, intake: Intake, images: list[FileDataset]
) -> None:
    retention.purge_due()
    assert intake.take(arrival(images[0])) is Outcome.REPEATED
    assert len(files(spool)) == 1
    assert files(spool) == here(database)
    with database.snapshot() as session:
        assert session.get_one(StudyRow, STUDY).state == "routed"
    assert events(database, "instance_repeated")[0][1]["restored"] is True
    assert retention.purge_due() == [], "its time begins anew"


@pytest.mark.usefixtures("done")
def test_the_node_commits_to_no_instance_that_is_purged(
    retention: Retention, database: Database, intake: Intake, images: list[FileDataset]
) -> None:
    reference = Reference(str(images[0].SOPClassUID), str(images[0].SOPInstanceUID))

    def reason() -> int | None:
        with database.snapshot() as session:
            return why_not_held(session, reference)

    assert reason() is None
    retention.purge_due()
    assert reason() == NO_SUCH_OBJECT
    intake.take(arrival(images[0]))
    assert reason() is None


@pytest.mark.usefixtures("done")
def test_a_late_image_of_a_purged_study_parks_it_until_the_rest_was_sent_again(
    retention: Retention, database: Database, settings: Settings, intake: Intake, images: list[FileDataset]
) -> None:
    retention.purge_due()
    intake.take(arrival(image(SeriesInstanceUID=f"{STUDY}.0")))
    dispatch = Dispatch(settings, database, Registry(settings.models.folder, frozenset()), Audit("routing"))

    def route() -> StudyRow:
        dispatch.route_complete_studies()
        with database.snapshot() as session:
            return session.get_one(StudyRow, STUDY)

    change(database, study_is("complete"))
    assert route().state == "parked"
    ((_, detail),) = events(database, "study_parked")
    assert detail["reason"].startswith("4 of its instances were purged after their results were delivered")
    with pytest.raises(PermanentError, match="have the whole study sent again"), database.transaction() as s:
        replay_of_study(s, Audit("admin"), STUDY)
    for sent in images:
        intake.take(arrival(sent))
    with database.transaction() as session:
        assert replay_of_study(session, Audit("admin"), STUDY).studies == 1
    route()  # again, and there is no model here
    assert "no usable model bundle" in events(database, "study_parked")[-1][1]["reason"]


@pytest.mark.usefixtures("done")
def test_a_replay_of_a_purged_study_says_why_it_cannot_be(retention: Retention, database: Database) -> None:
    retention.purge_due()
    told = f"study {STUDY} cannot be replayed: 4 of its instances"
    with pytest.raises(PermanentError, match=told), database.transaction() as session:
        replay_of_study(session, Audit("admin"), STUDY)


@pytest.mark.usefixtures("done")
def test_an_instance_that_comes_while_its_file_is_being_removed_is_here_afterwards(
    retention: Retention, database: Database, spool: Spool, intake: Intake, images: list[FileDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The file is there when the receiver looks, and gone when it records."""
    record = Intake.record

    def purged_first(self: Intake, session: Session, *rest: Any) -> Recorded:
        for path in files(spool):
            path.unlink()
        return record(self, session, *rest)

    monkeypatch.setattr(Intake, "record", purged_first)
    intake.take(arrival(images[0]))
    assert any(images[0].SOPInstanceUID in path.name for path in files(spool))


@pytest.mark.usefixtures("done")
def test_a_purge_that_is_cut_short_is_finished_by_the_sweep(
    retention: Retention, database: Database, spool: Spool, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, left = Path.unlink, [2]

    def dies(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".dcm":
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", dies)
    with pytest.raises(KeyboardInterrupt):
        retention.purge_due()
    monkeypatch.undo()
    assert len(files(spool)) == 4
    assert here(database) == set(), "no row says that a file is here which may be gone"
    assert sweep.sweep() == 4
    assert files(spool) == set()
    assert {detail["was_purged"] for _, detail in events(database, "orphan_removed")} == {True}


PURGE = """
import sys
from pathlib import Path
from dicomnode.config import load_settings
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.retention import Retention
from dicomnode.settings.retention import RetentionSettings
settings = load_settings(Path(sys.argv[1]))
print("ready", flush=True)
Retention(RetentionSettings(inputs_days=30), Database(settings.database_url), Audit("x")).purge_due()
"""


def test_a_purge_that_is_killed_leaves_no_lie_and_no_orphan(
    intake: Intake, database: Database, spool: Spool, sweep: Sweep, tmp_path: Path
) -> None:
    """SIGKILL in the middle of removing 300 files."""
    then = utc_now() - LONG_AGO
    intake.take(arrival(image()))

    def is_done(session: Session) -> None:
        study = session.get_one(StudyRow, STUDY)
        study.state, study.last_received_at = "ignored", then
        first = session.get_one(InstanceRow, 1)
        first.received_at = then
        columns = {c.name: getattr(first, c.name) for c in InstanceRow.__table__.columns if c.name != "id"}
        for number in range(299):
            path = Path(first.path).with_name(f"1.2.9.{number}_x.dcm")
            path.write_bytes(b"an image")
            more = {"sop_instance_uid": f"1.2.9.{number}", "path": str(path)}
            session.add(InstanceRow(**(columns | more)))

    change(database, is_done)
    process = subprocess.Popen([sys.executable, "-c", PURGE, str(tmp_path / "node.toml")])
    wait_until(lambda: len(files(spool)) < 300 or process.poll() is not None, 60)
    process.kill()
    process.wait()
    assert here(database) <= files(spool), "a row says that a file is here which is gone"
    sweep.sweep()
    assert files(spool) == here(database)


def test_files_that_nothing_speaks_of_go_when_they_are_old(
    intake: Intake, database: Database, spool: Spool, sweep: Sweep
) -> None:
    intake.take(arrival(image()))
    old = spool.instance_path("1.2.9", "1.2.9.1", "1.2.9.1.1", "a" * 64)
    young = spool.instance_path("1.2.9", "1.2.9.1", "1.2.9.1.2", "b" * 64)
    result = spool.result_path("1.2.9", "1.2.9.7", "3-1")
    for path in (old, young, result):
        spool.write(path, b"left behind")
    for path in (old, result, *here(database)):
        os.utime(path, (0, 0))
    half = old.with_name(f"{old.name}.other.1.abcd.part")
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    assert sweep.sweep() == 2
    assert files(spool) == here(database) | {young}
    assert not half.exists()
    told = [detail for _, detail in events(database, "orphan_removed")]
    assert {detail["file"] for detail in told} == {old.name, result.name}
    assert all(len(detail["sha256"]) == 64 and not detail["was_purged"] for detail in told)


def test_an_orphan_that_is_recorded_at_the_last_moment_stays(
    intake: Intake, database: Database, spool: Spool, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = image()
    intake.take(arrival(sent))
    (path,) = files(spool)
    os.utime(path, (0, 0))
    monkeypatch.setattr("dicomnode.sweep._spoken_of", _first_nothing())
    assert sweep.sweep() == 0
    assert files(spool) == {path}
    assert events(database, "orphan_removed") == []


def _first_nothing() -> Callable[..., dict[tuple[str, ...], bool]]:
    """As if the row came between the look at all files and the look at one."""
    from dicomnode.sweep import _spoken_of

    calls = []

    def spoken_of(session: Session, paths: list[Path]) -> dict[tuple[str, ...], bool]:
        calls.append(paths)
        return {} if len(calls) == 1 else _spoken_of(session, paths)

    return spoken_of


def test_a_spool_that_is_named_by_another_way_is_still_the_same(
    intake: Intake, database: Database, spool: Spool, tmp_path: Path
) -> None:
    """The rows hold the path by which the spool was named when the files came."""
    intake.take(arrival(image()))
    (path,) = files(spool)
    os.utime(path, (0, 0))
    (tmp_path / "link").symlink_to(spool.folder)
    assert Sweep(Spool(tmp_path / "link"), database).sweep() == 0
    assert path.is_file()


def test_a_spool_that_the_database_does_not_know_is_left_alone(
    database: Database, spool: Spool, sweep: Sweep
) -> None:
    """An empty database beside a full spool: the files may be all there is of what was acknowledged."""
    for number in range(101):
        path = spool.instance_path("1.2.9", "1.2.9.1", f"1.2.9.1.{number}", "a" * 64)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")
        os.utime(path, (0, 0))
    assert sweep.sweep() == 0
    assert len(files(spool)) == 101
    path.unlink()
    assert sweep.sweep() == 100


def test_folders_that_are_long_empty_go(spool: Spool, sweep: Sweep) -> None:
    old, young = spool.folder / "studies/1.2/1.2.1", spool.folder / "studies/1.3/1.3.1"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    sweep.sweep()
    assert not old.exists()
    assert young.exists()
    assert (spool.folder / "results").exists()
    assert ORPHAN_AGE_S >= 86400


@pytest.mark.usefixtures("done")
def test_the_command_shows_before_it_removes(tmp_path: Path, spool: Spool) -> None:
    config = write_config(tmp_path, "\n[retention]\ninputs_days = 30\n")
    command = Command(config)
    (shown,) = command.json("purge", "--dry-run")
    assert (shown["study_instance_uid"], shown["inputs"], shown["results"]) == (STUDY, 5, 0)
    assert shown["size_bytes"] > 0
    assert len(files(spool)) == 6
    assert command.json("purge") == [shown]
    assert len(files(spool)) == 1
    assert command.json("purge", "--dry-run") == []
