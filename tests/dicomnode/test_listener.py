"""A real listener on a loopback port, and a real pynetdicom sender.

Not covered: big endian senders. Limits of number, time and size are in test_connections.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.sop_class import Verification
from sqlalchemy import select, text

from dicomnode.receive.journal import Journal
from dicomnode.receive.listener import Listener
from dicomnode.receive.visits import Visits
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.records.tables import InstanceRow, StudyRow
from dicomnode.records.wake import Topic
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from tests.dicomnode.parts import echoed, events, image, kinds, own_result, stored, wait_until

OFFERED = [CTImageStorage, EnhancedSRStorage]


@pytest.fixture
def node(settings: Settings, database: Database, spool: Spool) -> Iterator[Settings]:
    yield from listening(settings, database, spool)


def listening(settings: Settings, database: Database, spool: Spool) -> Iterator[Settings]:
    listener = Listener(settings, database, spool)
    listener.start()
    yield settings
    listener.stop()


def associate(
    node: Settings,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    calling: str = "PACS",
    called: str = "LESIONNODE",
) -> Association:
    entity = AE(ae_title=calling)
    entity.add_requested_context(Verification)
    for sop_class in OFFERED:
        entity.add_requested_context(sop_class, transfer_syntax)
    return entity.associate("127.0.0.1", node.node.port, ae_title=called)


def store(node: Settings, dataset: Dataset) -> int:
    association = associate(node, UID(dataset.file_meta.TransferSyntaxUID))
    assert association.is_established
    answer = stored(association, dataset)
    association.release()
    status: int = answer.Status
    return status


def recorded(database: Database, count: int) -> list[InstanceRow]:
    """The rows, as soon as there are so many."""
    wait_until(lambda: len(rows(database)) == count, 60.0)
    return rows(database)


def rows(database: Database) -> list[InstanceRow]:
    with database.snapshot() as session:
        return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


def files(spool: Spool) -> list[Path]:
    return [path for path in spool.files() if path.is_file()]


def data_set_bytes(content: bytes) -> bytes:
    """What follows the file meta information of a DICOM file."""
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


def test_an_echo_is_answered(node: Settings) -> None:
    association = associate(node)
    assert echoed(association).Status == 0x0000
    association.release()


@pytest.mark.parametrize(
    ("calling", "called", "diagnostic"),
    [("STRANGER", "LESIONNODE", 3), ("PACS", "SOMEBODY", 7)],
)
def test_a_stranger_is_rejected_and_audited(
    node: Settings, database: Database, calling: str, called: str, diagnostic: int
) -> None:
    association = associate(node, calling=calling, called=called)
    assert association.is_rejected
    answer = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, diagnostic)
    wait_until(lambda: kinds(database))
    ((event, detail),) = events(database)
    assert event == "association_rejected"
    assert (detail["calling_ae_title"], detail["called_ae_title"]) == (calling, called)
    assert detail["address"] == "127.0.0.1"


def test_an_admission_that_fails_by_a_bug_keeps_the_door_closed(
    node: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("dicomnode.receive.associations.admit", breaks)
    association = associate(node)
    assert not association.is_established


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian],
)
def test_the_bytes_that_came_are_the_bytes_that_are_kept(
    node: Settings, database: Database, syntax: UID, tmp_path: Path
) -> None:
    sent = image()
    sent.file_meta.TransferSyntaxUID = syntax
    if syntax.is_deflated:
        sent.PixelData = bytes(32)
    assert store(node, sent) == 0x0000
    (row,) = recorded(database, 1)
    kept = dcmread(row.path)
    assert kept.file_meta.TransferSyntaxUID == row.transfer_syntax_uid == syntax
    assert kept.PatientName == sent.PatientName
    reference = tmp_path / "reference.dcm"
    sent.save_as(reference, enforce_file_format=True)
    assert data_set_bytes(Path(row.path).read_bytes()) == data_set_bytes(reference.read_bytes())


def test_a_compressed_image_is_kept_as_it_came(node: Settings, database: Database) -> None:
    source = Path(str(get_testdata_file("JPEG2000.dcm")))
    sent = dcmread(source)
    sent.SOPClassUID = sent.file_meta.MediaStorageSOPClassUID = CTImageStorage
    sent.file_meta.TransferSyntaxUID = JPEG2000Lossless
    assert store(node, sent) == 0x0000
    (row,) = recorded(database, 1)
    kept = dcmread(row.path)
    assert kept.PixelData == sent.PixelData
    assert row.transfer_syntax_uid == JPEG2000Lossless


def test_what_is_answered_with_success_is_recorded_even_when_it_is_the_last_thing_before_the_end(
    settings: Settings, database: Database, spool: Spool
) -> None:
    for node in listening(settings, database, spool):
        association = associate(node)
        assert stored(association, image()).Status == 0x0000
        association.abort()
    (row,) = rows(database)
    assert Path(row.path).is_file()
    assert list(spool.journals.iterdir()) == []


def test_the_same_instance_twice_is_accepted_twice_and_kept_once(node: Settings, database: Database) -> None:
    sent = image()
    assert [store(node, sent), store(node, sent)] == [0x0000, 0x0000]
    assert len(rows(database)) == 1


def test_other_content_under_the_same_uid_is_kept_with_a_warning(
    node: Settings, database: Database, spool: Spool
) -> None:
    sent = image()
    assert store(node, sent) == 0x0000
    sent.SeriesDescription = "Corrected"
    assert store(node, sent) == 0xB007
    assert [row.version for row in recorded(database, 2)] == [1, 2]
    assert len(files(spool)) == 2


def refused(database: Database) -> dict[str, Any]:
    ((_, detail),) = events(database, "instance_refused")
    return detail


def test_a_data_set_that_contradicts_its_request_is_refused_and_audited(
    node: Settings, database: Database, spool: Spool
) -> None:
    association = associate(node)
    sent = image()
    request_uid = generate_uid()
    encoded_uid = sent.SOPInstanceUID

    def rename(primitive: Any, *rest: Any) -> Any:
        primitive.AffectedSOPInstanceUID = request_uid
        return send(primitive, *rest)

    send = association.dimse.send_msg
    association.dimse.send_msg = rename
    answer = stored(association, sent)
    association.release()
    assert answer.Status == 0xC000
    assert encoded_uid != request_uid
    assert refused(database)["status"] == "C000"
    assert "SOPInstanceUID" in refused(database)["reason"]
    assert files(spool) == []


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"StudyInstanceUID": None}, "no StudyInstanceUID"),
        ({"StudyInstanceUID": "../../etc"}, "is not a UID"),
        ({"SeriesInstanceUID": "1." * 32 + "1"}, "is not a UID"),
    ],
)
def test_what_cannot_be_filed_is_refused_and_touches_no_file(
    node: Settings, database: Database, spool: Spool, attributes: dict[str, Any], says: str
) -> None:
    assert store(node, image(**attributes)) == 0xC000
    assert says in refused(database)["reason"]
    assert files(spool) == []
    assert rows(database) == []


def test_a_malicious_instance_uid_is_refused(node: Settings, database: Database, spool: Spool) -> None:
    sent = image()
    for uid in ("../../../etc/passwd", "1" * 65):
        association = associate(node)
        sent.SOPInstanceUID = uid
        try:
            answer = stored(association, sent)
        except ValueError:  # pynetdicom does not send it at all
            continue
        finally:
            association.abort()
        assert "Status" not in answer or answer.Status not in (0x0000, 0xB007)
    assert files(spool) == []
    assert rows(database) == []


def test_a_full_disk_refuses_new_associations_for_now(
    settings: Settings, database: Database, spool: Spool
) -> None:
    full = settings.listener.model_copy(update={"minimum_free_gb": 1e9})
    for node in listening(settings.model_copy(update={"listener": full}), database, spool):
        association = associate(node)
        assert association.is_rejected
        answer = association.acceptor.primitive
        assert (answer.result, answer.result_source) == (2, 3)
        wait_until(lambda: "association_rejected" in kinds(database))


def test_a_disk_that_fills_up_during_an_association_answers_out_of_resources(
    node: Settings, database: Database, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = associate(node)
    monkeypatch.setattr(Spool, "free_bytes", lambda _: -1)
    assert stored(association, image()).Status == 0xA700
    association.release()
    assert refused(database)["status"] == "A700"
    assert files(spool) == []


def test_a_disk_that_does_not_take_the_file_answers_out_of_resources(
    node: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", fails)
    assert store(node, image()) == 0xA700
    assert rows(database) == []


def test_a_spool_that_is_gone_answers_out_of_resources(
    node: Settings, spool: Spool, database: Database
) -> None:
    association = associate(node)
    wait_until(lambda: list(spool.journals.glob("*/*.journal")))  # else it is made while all is removed
    shutil.rmtree(spool.folder)
    assert stored(association, image()).Status == 0xA700
    association.release()
    assert rows(database) == []


def test_a_database_that_cannot_be_asked_answers_processing_failure(
    node: Settings, database: Database, spool: Spool
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE instances RENAME TO gone"))
    assert store(node, image()) == 0x0110
    assert files(spool) == []


def test_what_was_acknowledged_while_the_database_took_nothing_is_recorded_when_it_does(
    node: Settings, database: Database
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_events RENAME TO gone"))
    association = associate(node)
    assert stored(association, image()).Status == 0x0000
    assert rows(database) == []
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO audit_events"))
    recorded(database, 1)
    assert kinds(database) == ["instance_received"]
    association.release()


def test_our_own_result_that_comes_back_is_kept_and_reopens_nothing(
    node: Settings, database: Database
) -> None:
    assert store(node, image()) == 0x0000
    recorded(database, 1)
    with database.transaction() as session:
        session.get_one(StudyRow, "1.2.3.4").state = "routed"
    assert store(node, own_result()) == 0x0000
    assert [row.own_result for row in recorded(database, 2)] == [False, True]
    with database.snapshot() as session:
        assert session.get_one(StudyRow, "1.2.3.4").state == "routed"


def test_reports_are_kept_unless_the_configuration_refuses_them(
    settings: Settings, database: Database, spool: Spool
) -> None:
    report = image(SOPClassUID=EnhancedSRStorage, Modality="SR")
    only_images = settings.listener.model_copy(update={"other_objects": "refuse"})
    for node in listening(settings.model_copy(update={"listener": only_images}), database, spool):
        association = associate(node)
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        association.release()
        assert CTImageStorage in accepted
        assert EnhancedSRStorage not in accepted
    for node in listening(settings, database, spool):
        assert store(node, report) == 0x0000


def test_a_port_that_is_taken_is_an_error(node: Settings, database: Database, spool: Spool) -> None:
    with pytest.raises(OSError, match="in use"):
        Listener(node, database, spool).start()


def test_receivers_share_the_port_and_one_that_ends_leaves_it_to_the_other(
    settings: Settings, database: Database, spool: Spool
) -> None:
    shared = settings.model_copy(update={"listener": settings.listener.model_copy(update={"processes": 2})})
    one, other = Listener(shared, database, spool), Listener(shared, database, spool)
    one.start()
    other.start()
    assert one.ports == other.ports
    try:
        associations = [associate(shared) for _ in range(24)]
        assert all(association.is_established for association in associations)
        taken = [len(listener._servers[0].active_associations) for listener in (one, other)]
        assert sum(taken) == 24 and min(taken) > 0, "the system deals them out"
        for number, association in enumerate(associations[:2]):
            assert stored(association, image(InstanceNumber=number)).Status == 0
        for association in associations:
            association.release()
        one.stop()
        assert store(shared, image()) == 0
    finally:
        other.stop()
    assert len(recorded(database, 3)) == 3


def test_no_patient_data_is_logged_or_audited(node: Settings, database: Database, logs: list[Any]) -> None:
    store(node, image())
    store(node, image(StudyInstanceUID=None))
    told = f"{logs} {events(database)}"
    assert "instance_refused" in told
    for secret in ("Zebrowska", "PAT-77431", "19480229", "ACC-90210"):
        assert secret not in told


@pytest.mark.parametrize(
    ("images", "cut_off", "noted"), [(2, False, True), (1, False, False), (2, True, False)]
)
def test_the_release_after_several_images_is_noted_with_their_study_and_signalled(
    node: Settings, database: Database, images: int, cut_off: bool, noted: bool
) -> None:
    with database.wake.listen(Topic.RELEASES) as ear:
        association = associate(node)
        for number in range(images):
            assert stored(association, image(SOPInstanceUID=f"1.9.{number}")).Status == 0x0000
        association.abort() if cut_off else association.release()
        wait_until(lambda: "association_ended" in kinds(database), 60.0)
        assert ear.wait(60.0 if noted else 0.0) is noted
    with database.snapshot() as session:
        (study,) = session.scalars(select(StudyRow))
    assert (study.released_at is not None) is noted
    assert study.released_at is None or study.released_at >= study.last_received_at


def test_a_release_that_closes_the_connection_before_it_is_told_of_is_a_release(database: Database) -> None:
    heard = dict(Visits(database, Audit("receiver"), lambda: None).handlers)
    told = Mock(primitive=A_RELEASE())
    told.assoc.requestor.primitive.configure_mock(calling_ae_title="PACS", called_ae_title="NODE")
    told.assoc.requestor.address = "127.0.0.1"
    for event in (evt.EVT_ACCEPTED, evt.EVT_ACSE_SENT, evt.EVT_CONN_CLOSE, evt.EVT_RELEASED):
        heard[event](told)
    assert [detail["ended"] for _, detail in events(database, "association_ended")] == ["released"]


def test_an_association_is_recorded_at_its_end_with_what_was_answered_on_it(
    node: Settings, database: Database
) -> None:
    association = associate(node)
    echoed(association)
    for dataset in (image(SOPInstanceUID="1.9"), image(SOPInstanceUID="1.9", Rows=4, SeriesNumber=2)):
        stored(association, dataset)
    assert "association_ended" not in kinds(database)
    association.release()
    wait_until(lambda: "association_ended" in kinds(database), 60.0)
    ((_, detail),) = events(database, "association_ended")
    assert (detail["calling_ae_title"], detail["address"], detail["ended"]) == (
        "PACS",
        "127.0.0.1",
        "released",
    )
    assert (detail["echoes"], detail["stores"]) == (1, {"0000": 1, "B007": 1})
    assert detail["duration_s"] >= 0


def test_an_association_that_is_cut_off_is_recorded_too(node: Settings, database: Database) -> None:
    association = associate(node)
    association.dul.socket.close()
    wait_until(lambda: "association_ended" in kinds(database), 60.0)
    association = associate(node)
    association.abort()
    wait_until(lambda: len(events(database, "association_ended")) == 2, 60.0)
    assert [detail["ended"] for _, detail in events(database, "association_ended")] == ["cut off"] * 2
