"""From a received phantom to its results in the database, in one process: dispatch and worker."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import UID
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

import dicomnode.assemble.stored
import dicomnode.work.worker
from dicomnode.deliver.delivery import Delivery
from dicomnode.errors import PermanentError, StaleLease, TransientError, UnreadableSeries
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.story import tell
from dicomnode.records.tables import (
    AuditRow,
    DecisionRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    ResultRow,
    StudyRow,
)
from dicomnode.replay import replay_of_study
from dicomnode.route.dispatch import Dispatch, replay_study
from dicomnode.selftest.bundles import write_bundle
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import ModelSettings, Settings
from dicomnode.spool import HOST, Spool
from dicomnode.work import losses
from dicomnode.work.check_again import SecondRun, run_again
from dicomnode.work.engine import LocalEngine
from dicomnode.work.jobs import JobQueue
from dicomnode.work.worker import Worker
from inference.engine import Model
from inference.errors import OutOfMemory
from inference.registry import find_bundles
from tests.dicomnode.console import Command
from tests.dicomnode.parts import PATIENT, arrival, events, image, kinds, peer_answering, settings_in
from tests.phantoms import phantom

SPACING_MM = (8.0, 2.0, 2.0)


class Node:
    """Intake, dispatch and worker on one database, without a network."""

    def __init__(self, settings: Settings, database: Database, intake: Intake, files: list[Path]) -> None:
        self.settings, self.database, self.intake, self.files = settings, database, intake, files
        self.study_uid = str(dcmread(files[0]).StudyInstanceUID)

    def receive(self, files: list[Path]) -> None:
        for path in files:
            self.intake.take(arrival(dcmread(path)))

    def route(self) -> None:
        with self.database.transaction() as session:
            study = session.get_one(StudyRow, self.study_uid)
            study.state, study.completed_by, study.completed_at = "complete", "quiet_period", utc_now()
        self.dispatch()

    def dispatch(self) -> None:
        registry = find_bundles(self.settings.models.folder)
        Dispatch(self.settings, self.database, registry, Audit("routing")).route_complete_studies()

    def worker(self) -> Worker:
        registry = find_bundles(self.settings.models.folder)
        return Worker(self.settings, self.database, registry, LocalEngine("cpu"))

    def work(self) -> bool:
        return self.worker().work_one()

    def in_state(self, state: str) -> None:
        self.settings = self.settings.model_copy(
            update={"models": ModelSettings(folder=self.settings.models.folder, states={"threshold": state})}  # type: ignore[dict-item]
        )

    def rows(self, table: Any) -> list[Any]:
        with self.database.snapshot() as session:
            return list(session.scalars(select(table)))

    def study(self) -> StudyRow:
        found: StudyRow = self.rows(StudyRow)[0]
        return found

    def jobs(self) -> list[JobRow]:
        return sorted(self.rows(JobRow), key=lambda job: job.id)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    patient = {
        "patient_id": PATIENT["PatientID"],
        "patient_name": PATIENT["PatientName"],
        "accession_number": PATIENT["AccessionNumber"],
    }
    identity = SeriesIdentity(**patient, attributes={"PatientBirthDate": PATIENT["PatientBirthDate"]})  # type: ignore[arg-type]
    return write_series(phantom(spacing_mm=SPACING_MM).volume, tmp_path_factory.mktemp("series"), identity)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_bundle(tmp_path / "models" / "threshold")
    return settings_in(tmp_path, '[worker]\nretry_delay_s = 5\n[models]\nfolder = "models"\n')


@pytest.fixture
def node(settings: Settings, database: Database, intake: Intake, files: list[Path]) -> Iterator[Node]:
    found = Node(settings, database, intake, files)
    found.receive(files)
    yield found


def test_a_study_becomes_a_job_and_the_job_becomes_results(node: Node, logs: list[Any]) -> None:
    node.route()
    assert node.study().state == "routed"
    assert node.work()
    (job,) = node.jobs()
    assert (job.state, job.error) == ("succeeded", None)
    results = node.rows(ResultRow)
    assert {row.kind for row in results} == {"seg", "sr_measurements", "sr_volumes"}
    assert all(Path(row.path).is_file() and row.instance_number == 1 for row in results)
    assert len(node.rows(DeliveryRow)) == 3
    succeeded = events(node.database, "job_succeeded")[0][1]
    assert (succeeded["lesion_count"], succeeded["precision"]) == (3, "exact")
    assert succeeded["compiled"] is False
    ((_, started),) = events(node.database, "job_started")
    assert started["worker"] == f"cpu pid {os.getpid()} on {HOST}", "the device, and which process on it"
    assert not node.work()

    told = json.dumps(events(node.database)) + str(logs)
    told += str([(row.reason, row.checks) for row in node.rows(DecisionRow)])
    for secret in ("Zebrowska", "Hildegard", *PATIENT.values()):
        assert secret not in told
    sentences = [line.sentence for line in tell(node.rows(AuditRow))]
    assert any("3 lesion(s)" in sentence for sentence in sentences)


def test_after_a_job_the_memory_of_its_volume_is_free_for_the_next_one(node: Node) -> None:
    node.route()
    worker = node.worker()
    assert worker.work_one()
    pages = worker._room._pages
    assert pages is not None, "the volume lay somewhere else"
    pages.resize(len(pages))  # BufferError: somebody has a part of the volume


def test_each_destination_gets_the_forms_that_it_wants(
    database: Database, intake: Intake, files: list[Path], tmp_path: Path
) -> None:
    settings = settings_in(
        tmp_path,
        '[models]\nfolder = "models"\n[[peer]]\nname = "OLD"\nae_title = "OLD"\nhost = "127.0.0.1"\n'
        'port = 104\nforms = ["contours", "pictures"]\n',
    )
    route = settings.route[0].model_copy(update={"destinations": ("PACS", "OLD")})
    node = Node(settings.model_copy(update={"route": (route,)}), database, intake, files)
    node.receive(files)
    node.route()
    assert node.work()
    kind_of = {row.sop_instance_uid: row.kind for row in node.rows(ResultRow)}
    sent = [(row.destination, kind_of[row.sop_instance_uid]) for row in node.rows(DeliveryRow)]
    assert sorted(kind for name, kind in sent if name == "PACS") == ["seg", "sr_measurements", "sr_volumes"]
    assert sorted(kind for name, kind in sent if name == "OLD") == ["contours", *["pictures"] * 4]


def test_late_images_give_the_next_instance_in_the_same_result_series(node: Node) -> None:
    late = image(StudyInstanceUID=node.study_uid, SeriesInstanceUID="1.2.9", Modality="MR")
    middle = node.files[len(node.files) // 2]
    node.route()
    node.work()
    changed = dcmread(middle)
    changed.SeriesDescription = "Axial corrected"
    node.intake.take(arrival(changed))
    node.intake.take(arrival(late))
    node.route()
    node.work()
    assert [job.state for job in node.jobs()] == ["succeeded", "succeeded"], node.jobs()[-1].error
    by_kind: dict[str, list[ResultRow]] = {}
    for row in node.rows(ResultRow):
        by_kind.setdefault(row.kind, []).append(row)
    for rows in by_kind.values():
        assert sorted(row.instance_number for row in rows) == [1, 2]
        assert len({row.series_instance_uid for row in rows}) == 1
        assert len({row.sop_instance_uid for row in rows}) == 2
        earlier, later = sorted(rows, key=lambda row: row.instance_number)
        links = [detail.get("supersedes") for _, detail in events(node.database, "result_created")
                 if detail["kind"] == earlier.kind]  # fmt: skip
        assert links == [None, earlier.sop_instance_uid], later


def test_a_late_series_leaves_the_job_of_the_unchanged_one(node: Node) -> None:
    node.route()
    node.work()
    node.intake.take(
        arrival(image(StudyInstanceUID=node.study_uid, SeriesInstanceUID="1.2.9", Modality="MR"))
    )
    assert node.study().generation == 2
    node.route()
    assert node.study().state == "routed"
    assert len(node.jobs()) == 1
    reasons = [row.reason for row in node.rows(DecisionRow) if row.generation == 2 and row.routed]
    assert reasons == ["matches route 'lesions'; unchanged, so job 1 (succeeded) stands"]


def test_input_that_changed_before_the_job_began_supersedes_it(node: Node) -> None:
    node.route()
    changed = dcmread(node.files[0])
    changed.SeriesDescription = "Axial corrected"
    node.intake.take(arrival(changed))
    node.work()
    assert node.jobs()[0].state == "superseded"
    assert node.rows(ResultRow) == []


def fails_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise error

    monkeypatch.setattr(dicomnode.work.worker, "process_series", raises)


def test_a_permanent_error_fails_the_job_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.route()
    fails_with(UnreadableSeries("slices overlap"), monkeypatch)
    node.work()
    (job,) = node.jobs()
    assert (job.state, job.attempt, job.error) == ("failed", 1, "slices overlap")


@pytest.mark.parametrize(
    "error",
    [
        TransientError("busy"),
        OSError(5, "Input/output error"),
        OSError(28, "No space left on device"),
        OutOfMemory("the GPU cannot hold one window"),
        MemoryError(),
    ],
)
def test_a_transient_error_queues_the_job_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    node.route()
    fails_with(error, monkeypatch)
    node.work()
    (job,) = node.jobs()
    assert job.state == "queued"
    assert job.not_before > utc_now()
    assert "job_retried" in kinds(node.database)


def test_a_spool_that_is_away_costs_no_attempt_and_no_job_is_taken_until_it_is_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.route()
    spool, away, stopping = node.settings.spool, node.settings.spool.with_name("away"), threading.Event()
    spool.rename(away)
    works, asked = Spool.works, list[bool]()

    def comes_back(tried: Spool) -> bool:
        if len(asked) == 3:
            away.rename(spool)
            with node.database.transaction() as session:
                session.get_one(JobRow, 1).not_before = utc_now()
            stopping.set()
        asked.append(works(tried))
        return asked[-1]

    monkeypatch.setattr(Spool, "works", comes_back)
    node.worker().run(stopping)
    assert asked == [False, False, False, True]
    (job,) = node.jobs()
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert kinds(node.database).count("job_retried") == 1


def test_a_job_is_handed_back_when_the_database_is_there_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.route()
    fails_with(OSError(28, "No space left on device"), monkeypatch)
    monkeypatch.setattr(losses, "AWAY_S", 0.0)
    retry_later, away = JobQueue.retry_later, [OperationalError("UPDATE", {}, Exception("disk is full"))]

    def fails_once(*arguments: Any, **values: Any) -> None:
        if away:
            raise away.pop()
        retry_later(*arguments, **values)

    monkeypatch.setattr(JobQueue, "retry_later", fails_once)
    node.work()
    (job,) = node.jobs()
    assert (job.state, job.losses, job.attempt) == ("queued", 0, 1)


def test_a_bug_fails_the_job_without_details(
    node: Node, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    node.route()
    fails_with(KeyError("Zebrowska^Hildegard"), monkeypatch)
    node.work()
    (job,) = node.jobs()
    assert job.state == "failed"
    assert str(job.error).startswith("internal error KeyError")
    assert "Zebrowska" not in str(job.error) + json.dumps(events(node.database))
    assert any(event["log_level"] == "error" for event in logs)


def test_a_worker_that_lost_its_lease_and_fails_goes_on_working(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.route()

    def loses_lease_and_fails(*_: object) -> None:
        with node.database.transaction() as session:
            session.get_one(JobRow, 1).fencing_token += 1
        raise UnreadableSeries("slices overlap")

    monkeypatch.setattr(dicomnode.work.worker, "process_series", loses_lease_and_fails)
    assert node.work()
    assert node.jobs()[0].state == "running"


def test_the_next_attempt_removes_what_a_killed_one_had_stored(node: Node, spool: Spool) -> None:
    node.route()
    with node.database.transaction() as session:
        session.get_one(JobRow, 1).fencing_token = 1
    killed = spool.result_path(node.study_uid, "1.2.3", "1-1")
    of_another_job = spool.result_path(node.study_uid, "1.2.3", "11-1")
    for path in (killed, of_another_job):
        spool.write(path, b"stored, never published")
    assert node.work()
    published = {Path(row.path) for row in node.rows(ResultRow)}
    assert set(killed.parent.iterdir()) == {of_another_job, *published}


def test_what_the_next_attempt_could_not_remove_is_removed_after_its_success(
    node: Node, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be read-only when an attempt begins."""
    node.route()
    with node.database.transaction() as session:
        session.get_one(JobRow, 1).fencing_token = 1
    killed = spool.result_path(node.study_uid, "1.2.3", "1-1")
    spool.write(killed, b"stored, never published")
    failures = iter([PermissionError(13, "Permission denied")])
    unlink = Path.unlink

    def fails_once(path: Path, missing_ok: bool = False) -> None:
        for error in failures:
            raise error
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", fails_once)
    assert node.work()
    assert set(killed.parent.iterdir()) == {Path(row.path) for row in node.rows(ResultRow)}


@pytest.mark.parametrize("published", [False, True])
def test_a_worker_that_lost_its_lease_leaves_only_what_was_published(
    node: Node, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    """A commit may succeed without the worker hearing of it; what it wrote is then in use."""
    node.route()
    succeed = JobQueue.succeed

    def seems_lost(*arguments: Any) -> None:
        if published:
            succeed(*arguments)
        raise StaleLease("job 1 belongs to another worker now")

    monkeypatch.setattr(JobQueue, "succeed", seems_lost)
    assert node.work()
    files = set((node.settings.spool / "results").rglob("*.dcm"))
    assert files == {Path(row.path) for row in node.rows(ResultRow)}
    assert len(files) == (3 if published else 0)


def test_a_bundle_that_changed_since_the_job_was_made_is_not_used(node: Node) -> None:
    node.route()
    write_bundle(node.settings.models.folder / "threshold", version="2.0.0")
    node.work()
    (job,) = node.jobs()
    assert job.state == "failed"
    assert "has changed since job 1 was made" in str(job.error)


def test_a_model_in_shadow_works_but_sends_nothing(node: Node) -> None:
    node.in_state("shadow")
    node.route()
    node.work()
    assert node.jobs()[0].state == "succeeded"
    assert node.rows(ResultRow)
    assert node.rows(DeliveryRow) == []


@pytest.mark.parametrize("state", ["retired", "draft"])
def test_a_model_that_is_not_in_use_gets_no_job(node: Node, state: str) -> None:
    node.in_state(state)
    node.route()
    assert node.jobs() == []
    assert node.study().state == "ignored"
    assert node.rows(DecisionRow)[0].reason == f"matches route 'lesions'; but model threshold is {state}"


def test_a_study_whose_model_is_missing_is_parked_until_it_is_back(node: Node) -> None:
    card = node.settings.models.folder / "threshold" / "configs" / "dicom.json"
    away = card.rename(card.with_name("away.json"))
    node.route()
    assert node.study().state == "parked"
    assert (
        "no usable model bundle is called 'threshold'"
        in events(node.database, "study_parked")[0][1]["reason"]
    )
    away.rename(card)
    for _ in range(2):
        with node.database.transaction() as session:
            replay_of_study(session, Audit("admin"), node.study_uid)
        node.dispatch()
    assert node.study().state == "routed"
    assert len(node.jobs()) == 1


def test_a_study_whose_model_is_missing_and_may_send_nothing_is_ignored(node: Node) -> None:
    (node.settings.models.folder / "threshold" / "configs" / "dicom.json").unlink()
    node.in_state("shadow")
    node.route()
    assert node.study().state == "ignored"
    assert "no usable model bundle is called 'threshold'" in node.rows(DecisionRow)[0].reason


def test_a_study_is_parked_as_a_whole_when_one_of_its_models_is_missing(node: Node) -> None:
    (route,) = node.settings.route
    of_mr = route.when.model_copy(update={"modality": "MR"})
    other = route.model_copy(update={"name": "other", "model": "elsewhere", "when": of_mr})
    node.settings = node.settings.model_copy(update={"route": (route, other)})
    node.intake.take(
        arrival(image(StudyInstanceUID=node.study_uid, SeriesInstanceUID="1.2.9", Modality="MR"))
    )
    node.route()
    assert node.study().state == "parked"
    assert (node.jobs(), node.rows(DecisionRow)) == ([], [])
    write_bundle(node.settings.models.folder / "elsewhere", name="elsewhere")
    with node.database.transaction() as session:
        replay_of_study(session, Audit("admin"), node.study_uid)
    node.dispatch()
    assert [job.model for job in node.jobs()] == ["threshold", "elsewhere"]


def test_a_study_that_cannot_be_routed_is_parked_and_can_be_replayed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise ZeroDivisionError("Zebrowska")

    with monkeypatch.context() as patch:
        patch.setattr("dicomnode.route.dispatch.route_study", raises)
        node.route()
    assert node.study().state == "parked"
    assert "Zebrowska" not in json.dumps(events(node.database))
    with node.database.transaction() as session:
        replay_study(session, Audit("admin"), session.get_one(StudyRow, node.study_uid))
    node.dispatch()
    assert node.study().state == "routed"


def test_an_instance_that_arrives_while_routing_leaves_the_study_to_the_next_round(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dicomnode.assemble.stored._read
    late = [image(StudyInstanceUID=node.study_uid)]

    def arrives(row: Any) -> Any:
        if late:
            node.intake.take(arrival(late.pop()))
        return read(row)

    monkeypatch.setattr("dicomnode.assemble.stored._read", arrives)
    node.route()
    assert node.study().state == "receiving"
    assert node.jobs() == []
    assert node.rows(DecisionRow) == []


def check_again(node: Node) -> SecondRun:
    registry = find_bundles(node.settings.models.folder)
    return run_again(node.database, registry, node.jobs()[0].id, node.settings.compiled, "cpu")


def test_a_past_job_runs_again_with_the_same_result_bit_for_bit(node: Node) -> None:
    node.route()
    node.work()
    before = len(kinds(node.database))
    second = check_again(node)
    assert second.same
    assert {compared.kind for compared in second.objects} == {"seg", "sr_measurements", "sr_volumes"}
    assert second.differences == ()
    assert len(kinds(node.database)) == before
    assert len(node.rows(ResultRow)) == 3


def test_a_job_that_ran_compiled_runs_compiled_again_or_is_told_of(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngine, "is_compiled", lambda *_: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of another test")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    tried: list[Model] = []
    monkeypatch.setattr(Model, "compile", lambda model: tried.append(model))
    node.route()
    node.work()
    second = check_again(node)
    assert second.same and len(tried) == 1
    assert second.differences == ("made by the network compiled, this ran it as it is",)


def test_the_command_compares_and_its_exit_code_says_whether_all_is_the_same(node: Node) -> None:
    node.route()
    node.work()
    command = Command(node.settings.node.data.parent / "node.toml")
    told = command("replay", "--check", "1")
    assert told.count("the same") == 3
    with node.database.transaction() as session:
        session.scalars(select(ResultRow).where(ResultRow.kind == "seg")).one().sha256 = "0" * 64
    told = command("replay", "--check", "1", code=1)
    assert (told.count("the same"), "000000000000" in told) == (2, True)
    checks = [detail for _, detail in events(node.database, "job_checked")]
    assert [(check["same"], check["other"]) for check in checks] == [(True, []), (False, ["seg"])]


def test_a_result_whose_file_is_damaged_is_not_sent_and_made_again_by_hand(node: Node) -> None:
    node.route()
    node.work()
    damaged = next(row for row in node.rows(ResultRow) if row.kind == "seg")
    lost = next(row for row in node.rows(ResultRow) if row.kind == "sr_volumes")
    content = Path(damaged.path).read_bytes()
    Path(damaged.path).write_bytes(content[:-1] + b"?")
    Path(lost.path).unlink()
    with peer_answering() as peer:
        there = node.settings.peer[0].model_copy(update={"port": peer.port})
        settings = node.settings.model_copy(update={"peer": (there,)})
        settings.__dict__.pop("peers", None)  # those by name are remembered
        delivery = Delivery(settings, node.database)
        delivery.push(settings.peers["PACS"])
        states = {row.sop_instance_uid: row for row in node.rows(DeliveryRow)}
        assert states[damaged.sop_instance_uid].state == "dead"
        assert "dicomnode replay --mend 1" in str(states[damaged.sop_instance_uid].last_status)
        assert damaged.sop_instance_uid not in peer.received
        command = Command(node.settings.node.data.parent / "node.toml")
        told = command("replay", "--mend", "1")
        assert "put back: 2 object(s) of job 1" in told and "queued again: 0 x study" in told
        assert Path(damaged.path).read_bytes() == content
        delivery.push(settings.peers["PACS"])
        assert damaged.sop_instance_uid in peer.received
    assert "nothing to mend" in command("replay", "--mend", "1")
    assert kinds(node.database).count("result_mended") == 2
    with node.database.transaction() as session:
        session.get_one(ResultRow, damaged.sop_instance_uid).sha256 = "0" * 64
    with pytest.raises(PermanentError, match="seg did not come out as made"):
        command("replay", "--mend", "1")


def test_a_late_instance_does_not_disturb_the_comparison(node: Node) -> None:
    node.route()
    node.work()
    late = dcmread(node.files[0])
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = UID("2.25.77")
    late.ImagePositionPatient = [*late.ImagePositionPatient[:2], 9999]
    node.intake.take(arrival(late))
    assert check_again(node).same


def test_a_result_that_is_not_what_was_recorded_is_named(node: Node) -> None:
    node.route()
    node.work()
    with node.database.transaction() as session:
        session.scalars(select(ResultRow).where(ResultRow.kind == "seg")).one().sha256 = "0" * 64
    second = check_again(node)
    assert [compared.kind for compared in second.objects if not compared.same] == ["seg"]
    assert not second.same


def test_a_job_whose_images_changed_or_are_gone_cannot_run_again(node: Node) -> None:
    node.route()
    node.work()
    with node.database.snapshot() as session:
        path = Path(session.scalars(select(InstanceRow.path)).first() or "")
    path.unlink()
    with pytest.raises(PermanentError, match="1 of the images of job 1 are not kept any more"):
        check_again(node)


def test_a_job_without_results_has_nothing_to_compare(node: Node) -> None:
    node.route()
    with pytest.raises(PermanentError, match="has no results, or none that are kept"):
        check_again(node)
