"""Storage commitment in both directions against peers made of pynetdicom. Orthanc is in tests/system.

Not covered: a peer that reports days later than it was asked; the moves are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification
from sqlalchemy import select

import dicomnode.deliver.commitment
from dicomnode.assemble.counts import _held_by_both
from dicomnode.deliver.commitment import Commitment
from dicomnode.deliver.commitment_pruning import prune_commitments
from dicomnode.deliver.commitment_reports import CommitmentReports
from dicomnode.deliver.holdings import why_not_held
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.references import Reference, Report, action_information, event_information
from dicomnode.receive.listener import Listener
from dicomnode.records.audit import Audit
from dicomnode.records.commitment_tables import CommitmentReportRow, CommitmentRequestRow
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, InstanceRow, StudyRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool
from tests.dicomnode.outbox import Outbox
from tests.dicomnode.parts import events, image, kinds, settings_in, stored, wait_until

WAIT_S = 60.0
MODEL = StorageCommitmentPushModel


class Archive:
    """Stores, takes requests for commitment, and reports when it is told to."""

    def __init__(self, port: int, action_status: int = 0x0000, knows_commitment: bool = True) -> None:
        self.asked: list[Dataset] = []
        self.reported: list[tuple[int, Dataset]] = []
        self.rejecting = False
        self.same_association: Callable[[Dataset], tuple[int, Dataset]] | None = None
        self._status = action_status
        entity = AE(ae_title="PACS")
        entity.add_supported_context(Verification)
        entity.add_supported_context(CTImageStorage)
        if knows_commitment:
            entity.add_supported_context(MODEL, scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_C_STORE, lambda _: 0x0000),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
        ]
        self.server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def _on_action(self, event: Any) -> tuple[int, None]:
        assert event.action_type == 1
        self.asked.append(event.action_information)
        if self.same_association is not None:
            kind, dataset = self.same_association(event.action_information)
            report = (dataset, kind, MODEL, StorageCommitmentPushModelInstance)
            threading.Timer(0.1, event.assoc.send_n_event_report, report).start()
        return self._status, None

    def _on_report(self, event: Any) -> tuple[int, None]:
        if self.rejecting:
            return 0x0213, None
        self.reported.append((event.event_type, event.event_information))
        return 0x0000, None

    @property
    def transaction_uid(self) -> str:
        return str(self.asked[-1].TransactionUID)

    @property
    def instances(self) -> list[str]:
        return [item.ReferencedSOPInstanceUID for item in self.asked[-1].ReferencedSOPSequence]


@contextmanager
def archive_at(settings: Settings, **how: Any) -> Iterator[Archive]:
    archive = Archive(settings.peers["PACS"].port, **how)
    try:
        yield archive
    finally:
        archive.server.shutdown()


@contextmanager
def listening(settings: Settings, database: Database) -> Iterator[Settings]:
    spool = Spool(settings.spool)
    spool.prepare()
    listener = Listener(settings, database, spool)
    listener.start()
    try:
        yield settings
    finally:
        listener.stop()


def listening_too(settings: Settings, database: Database) -> AbstractContextManager[Settings]:
    """A second receiver of the same node, at a port of its own."""
    node = settings.node.model_copy(update={"port": free_port()})
    return listening(settings.model_copy(update={"node": node}), database)


def committing(settings: Settings, **peer: Any) -> Settings:
    return with_peers(settings, settings.peer[0].model_copy(update={"storage_commitment": True, **peer}))


def with_peers(settings: Settings, *peers: PeerSettings) -> Settings:
    changed = settings.model_copy(update={"peer": peers})
    changed.__dict__.pop("peers", None)  # those by name are remembered
    return changed


@pytest.fixture
def outbox(tmp_path: Path, database: Database) -> Outbox:
    """Two results on their way to a peer that commits."""
    settings = committing(settings_in(tmp_path, port=free_port(), peer_port=free_port()))
    found = Outbox(settings, database, tmp_path)
    found.add("1.7.1")
    found.add("1.7.2")
    return found


def ask(outbox: Outbox, **rules: Any) -> None:
    """As housekeeping does; every call is a new process, as after a restart."""
    delivery = outbox.settings.delivery.model_copy(update=rules)
    settings = outbox.settings.model_copy(update={"delivery": delivery})
    Commitment(settings, outbox.database).ask(settings.peer[0])


def refer(*uids: str, sop_class: str = CTImageStorage) -> tuple[Reference, ...]:
    return tuple(Reference(sop_class, uid) for uid in uids)


def report_to_node(
    settings: Settings, transaction_uid: str, report: Report, calling: str = "PACS", role: bool = True
) -> int | None:
    """An N-EVENT-REPORT on an association of its own, roles swapped; its status, None when there is none."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(MODEL, ExplicitVRLittleEndian)
    association = entity.associate(
        "127.0.0.1", settings.node.port, ae_title="LESIONNODE",
        ext_neg=[build_role(MODEL, scp_role=True)] if role else [],
    )  # fmt: skip
    if not association.is_established:
        return None
    dataset = event_information(transaction_uid, report)
    with parked_reactor(association):
        answer, _ = association.send_n_event_report(
            dataset, report.event_type, MODEL, StorageCommitmentPushModelInstance
        )
    association.release()
    return int(answer.Status)


def states(outbox: Outbox) -> list[str]:
    return outbox.states()


def test_results_are_stored_first_and_delivered_when_the_destination_commits(
    outbox: Outbox, database: Database
) -> None:
    with archive_at(outbox.settings) as archive, listening(outbox.settings, database):
        outbox.push()
        assert states(outbox) == ["stored", "stored"]
        assert all(row.delivered_at is None for row in outbox.rows())
        ask(outbox)
        assert sorted(archive.instances) == ["1.7.1", "1.7.2"]
        assert states(outbox) == ["stored", "stored"]
        report = Report(refer("1.7.1", "1.7.2"), ())
        assert report_to_node(outbox.settings, archive.transaction_uid, report) == 0x0000
    assert states(outbox) == ["delivered", "delivered"]
    assert all(row.delivered_at and row.last_status == "committed" for row in outbox.rows())
    told = [kind for kind in kinds(database) if kind != "association_ended"]
    assert told == ["result_stored"] * 2 + ["commitment_requested"] + ["result_delivered"] * 2
    with database.snapshot() as session:
        (request,) = session.scalars(select(CommitmentRequestRow))
        assert request.answered_at is not None


def test_a_report_on_the_same_association_counts_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomnode.deliver.commitment, "REPORT_WAIT_S", WAIT_S)

    def commit(request: Dataset) -> tuple[int, Dataset]:
        return 1, event_information(request.TransactionUID, Report(refer("1.7.1", "1.7.2"), ()))

    with archive_at(outbox.settings) as archive:
        archive.same_association = commit
        outbox.push()
        ask(outbox)
        wait_until(lambda: states(outbox) == ["delivered", "delivered"], WAIT_S)


def test_a_report_on_another_association_ends_the_wait_on_the_first(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomnode.deliver.commitment, "REPORT_WAIT_S", 10_000.0)
    with archive_at(outbox.settings) as archive, listening(outbox.settings, database):
        outbox.push()
        asking = threading.Thread(target=ask, args=(outbox,), daemon=True)
        asking.start()
        wait_until(lambda: archive.asked, WAIT_S)
        report = Report(refer("1.7.1", "1.7.2"), ())
        assert report_to_node(outbox.settings, archive.transaction_uid, report) == 0x0000
        asking.join(WAIT_S)
        assert not asking.is_alive()


def test_the_objects_of_a_job_are_asked_about_together_once_none_is_on_its_way(outbox: Outbox) -> None:
    with archive_at(outbox.settings) as archive:
        outbox.push()
        with outbox.database.transaction() as session:
            session.get_one(DeliveryRow, 2).state = "sending"
        ask(outbox)
        assert not archive.asked
        with outbox.database.transaction() as session:
            session.get_one(DeliveryRow, 2).state = "stored"
        ask(outbox)
        assert sorted(archive.instances) == ["1.7.1", "1.7.2"]
        assert len(archive.asked) == 1


@pytest.mark.parametrize(
    ("reason", "state"), [(0x0112, "waiting"), (0x0110, "waiting"), (0x0213, "waiting"), (0x0122, "dead")]
)
def test_what_is_not_committed_is_sent_again_unless_that_cannot_help(
    outbox: Outbox, database: Database, reason: int, state: str
) -> None:
    with archive_at(outbox.settings) as archive, listening(outbox.settings, database):
        outbox.push()
        ask(outbox)
        (failed,) = refer("1.7.2")
        report = Report(refer("1.7.1"), ((failed, reason),))
        assert report_to_node(outbox.settings, archive.transaction_uid, report) == 0x0000
        assert states(outbox) == ["delivered", state]
        assert str(outbox.rows()[1].last_status).startswith(f"not committed: {reason:04X}")
        if state == "waiting":
            outbox.change(not_before=utc_now())
            outbox.push()
            assert states(outbox) == ["delivered", "stored"]


def test_without_a_report_it_is_asked_again_and_at_last_given_up(outbox: Outbox, database: Database) -> None:
    with archive_at(outbox.settings) as archive:
        outbox.push()
        ask(outbox)
        first = archive.transaction_uid
        ask(outbox)
        assert len(archive.asked) == 1  # not before its time
        outbox.change(not_before=utc_now() - timedelta(seconds=1))
        ask(outbox)
        assert len(archive.asked) == 2
        assert archive.transaction_uid != first
        outbox.change(not_before=utc_now() - timedelta(seconds=1))
        ask(outbox, commitment_attempts=2)
    assert states(outbox) == ["dead", "dead"]
    assert outbox.rows()[0].last_status == "not committed after 2 requests"


def test_what_was_asked_while_nobody_listened_is_asked_again_when_somebody_does(
    outbox: Outbox, database: Database
) -> None:
    with archive_at(outbox.settings) as archive:
        outbox.push()
        ask(outbox)  # the report of the archive finds no port
        due_in_s = (outbox.rows()[0].not_before - utc_now()).total_seconds()
        assert due_in_s > 500
        with listening(outbox.settings, database), listening_too(outbox.settings, database):
            deadline = utc_now() + timedelta(seconds=WAIT_S)
            while len(archive.asked) < 2 and utc_now() < deadline:
                ask(outbox)
            ask(outbox)  # once for both
            report = Report(refer("1.7.1", "1.7.2"), ())
            assert report_to_node(outbox.settings, archive.transaction_uid, report) == 0x0000
    assert states(outbox) == ["delivered", "delivered"]
    assert len(archive.asked) == 2
    assert [row.commitment_attempt for row in outbox.rows()] == [1, 1]  # one was not heard


def test_a_late_report_on_an_earlier_request_still_commits_but_no_longer_fails(
    outbox: Outbox, database: Database
) -> None:
    with archive_at(outbox.settings) as archive, listening(outbox.settings, database):
        outbox.push()
        ask(outbox)
        first = archive.transaction_uid
        outbox.change(not_before=utc_now() - timedelta(seconds=1))
        ask(outbox)
        (second,) = refer("1.7.2")
        assert report_to_node(outbox.settings, first, Report(refer("1.7.1"), ((second, 0x0112),))) == 0
        assert states(outbox) == ["delivered", "stored"]
        assert report_to_node(outbox.settings, first, Report(refer("1.7.1"), ())) == 0  # told twice


def test_a_report_that_nobody_asked_for_changes_nothing(outbox: Outbox, database: Database) -> None:
    both = Report(refer("1.7.1", "1.7.2"), ())
    other = outbox.settings.peer[0].model_copy(update={"name": "other", "ae_title": "OTHER", "port": 1})
    settings = with_peers(outbox.settings, *outbox.settings.peer, other)
    with archive_at(settings) as archive, listening(settings, database):
        outbox.push()
        ask(outbox)
        assert report_to_node(settings, generate_uid(), both) == 0x0115
        assert report_to_node(settings, archive.transaction_uid, both, calling="OTHER") == 0x0115
        assert report_to_node(settings, archive.transaction_uid, both, calling="STRANGER") is None
    assert states(outbox) == ["stored", "stored"]


def test_a_destination_that_may_not_send_may_report_and_nothing_else(
    outbox: Outbox, database: Database
) -> None:
    settings = committing(outbox.settings, may_send=False)
    with archive_at(settings) as archive, listening(settings, database):
        outbox.push()
        ask(outbox)
        entity = AE(ae_title="PACS")
        for context in (Verification, CTImageStorage, MODEL):
            entity.add_requested_context(context)
        association = entity.associate("127.0.0.1", settings.node.port, ae_title="LESIONNODE")
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        assert accepted == {Verification, MODEL}
        dataset = action_information(generate_uid(), refer("1.2"))
        with parked_reactor(association):
            answer, _ = association.send_n_action(dataset, 1, MODEL, StorageCommitmentPushModelInstance)
        assert answer.Status == 0x0124
        association.release()
        report = Report(refer("1.7.1", "1.7.2"), ())
        assert report_to_node(settings, archive.transaction_uid, report) == 0x0000
    assert states(outbox) == ["delivered", "delivered"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"action_status": 0x0110}, "answered 0110 to the request"),
        ({"knows_commitment": False}, "set storage_commitment = false"),
    ],
)
def test_a_destination_that_cannot_be_asked_is_asked_later(
    outbox: Outbox, database: Database, how: dict[str, Any], says: str
) -> None:
    with archive_at(outbox.settings, **how):
        outbox.push()
        started = utc_now()
        ask(outbox)
    assert states(outbox) == ["stored", "stored"]
    ((_, detail),) = events(database, "commitment_postponed")
    assert says in detail["reason"]
    assert all(row.not_before > started + timedelta(seconds=2) for row in outbox.rows())


def test_a_destination_that_is_away_costs_no_attempt(outbox: Outbox, database: Database) -> None:
    with archive_at(outbox.settings):
        outbox.push()
    ask(outbox)
    assert states(outbox) == ["stored", "stored"]
    assert all(row.commitment_attempt == 0 and row.not_before > utc_now() for row in outbox.rows())
    assert "commitment_requested" not in kinds(database)


def test_when_commitment_is_switched_off_what_is_stored_counts_as_delivered(outbox: Outbox) -> None:
    with archive_at(outbox.settings):
        outbox.push()
    not_any_more = committing(outbox.settings, storage_commitment=False)
    Commitment(not_any_more, outbox.database).ask(not_any_more.peer[0])
    assert states(outbox) == ["delivered", "delivered"]


def test_stored_results_of_a_peer_that_is_gone_are_dead_letters(outbox: Outbox) -> None:
    with archive_at(outbox.settings):
        outbox.push()
    with outbox.database.transaction() as session:
        for row in session.scalars(select(DeliveryRow)):
            row.destination = "GONE"
    outbox.delivery.bury_unknown()
    assert states(outbox) == ["dead", "dead"]


def test_what_is_stored_is_held_by_both_before_it_is_committed(outbox: Outbox, database: Database) -> None:
    with archive_at(outbox.settings):
        outbox.push()
    with database.snapshot() as session:
        study = session.get_one(StudyRow, "1.2.3")
        assert _held_by_both(session, study, "PACS", outbox.settings.peer[0]) == 2


def store(settings: Settings, *datasets: Dataset) -> None:
    entity = AE(ae_title="PACS")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", settings.node.port, ae_title="LESIONNODE")
    for dataset in datasets:
        assert stored(association, dataset).Status == 0x0000
    association.release()


def request_of_node(settings: Settings, transaction_uid: str, dataset: Dataset, action_type: int = 1) -> int:
    entity = AE(ae_title="PACS")
    entity.add_requested_context(MODEL)
    association = entity.associate("127.0.0.1", settings.node.port, ae_title="LESIONNODE")
    with parked_reactor(association):
        answer, _ = association.send_n_action(dataset, action_type, MODEL, StorageCommitmentPushModelInstance)
    association.release()
    return int(answer.Status)


def send_reports(settings: Settings, database: Database) -> None:
    CommitmentReports(settings, database).send_due(settings.peer[0])


def test_a_sender_learns_of_each_instance_whether_it_is_safe_here(
    settings: Settings, database: Database
) -> None:
    kept, lost, damaged = (image(InstanceNumber=number) for number in (1, 2, 3))
    with archive_at(settings) as archive, listening(settings, database):
        store(settings, kept, lost, damaged)
        wait_until(lambda: kinds(database).count("instance_received") == 3, 60.0)
        with database.snapshot() as session:
            paths = {row.sop_instance_uid: Path(row.path) for row in session.scalars(select(InstanceRow))}
        paths[lost.SOPInstanceUID].unlink()
        content = bytearray(paths[damaged.SOPInstanceUID].read_bytes())
        content[-1] ^= 1
        paths[damaged.SOPInstanceUID].write_bytes(content)
        asked = (
            *refer(kept.SOPInstanceUID, lost.SOPInstanceUID, damaged.SOPInstanceUID, "1.2.3.99"),
            Reference(MRImageStorage, kept.SOPInstanceUID),
            Reference("1.2.3.4.5.6", "1.2.3.98"),
        )
        transaction_uid = generate_uid()
        assert request_of_node(settings, transaction_uid, action_information(transaction_uid, asked)) == 0
        assert archive.reported == []
        send_reports(settings, database)
    ((kind, report),) = archive.reported
    assert kind == 2
    assert report.TransactionUID == transaction_uid
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [kept.SOPInstanceUID]
    reasons = [item.FailureReason for item in report.FailedSOPSequence]
    assert reasons == [0x0112, 0x0110, 0x0112, 0x0119, 0x0122]
    ((_, wanted),) = events(database, "commitment_asked")
    assert (wanted["transaction_uid"], wanted["instance_count"]) == (transaction_uid, len(asked))
    ((_, detail),) = events(database, "commitment_reported")
    assert detail["committed"] == 1
    assert detail["failed"]["0112 no such object instance"] == 2


def test_what_retention_has_removed_is_not_committed_to_even_before_its_file_is_gone(
    settings: Settings, database: Database
) -> None:
    purged = image()
    with listening(settings, database):
        store(settings, purged)
    (reference,) = refer(purged.SOPInstanceUID)
    with database.transaction() as session:
        assert why_not_held(session, reference) is None
        session.scalars(select(InstanceRow)).one().purged_at = utc_now()
    with database.snapshot() as session:
        assert Path(session.scalars(select(InstanceRow)).one().path).exists()
        assert why_not_held(session, reference) == 0x0112


def test_finished_requests_are_removed_when_they_are_old_and_open_ones_stay(
    outbox: Outbox, database: Database
) -> None:
    long_ago = utc_now() - timedelta(days=40)
    with archive_at(outbox.settings):
        outbox.push()
        ask(outbox)
    with database.transaction() as session:
        (asked,) = session.scalars(select(CommitmentRequestRow))
        asked.asked_at = long_ago
        finished = CommitmentRequestRow(
            transaction_uid="1.2.9", destination="PACS", job_id=asked.job_id, asked_at=long_ago
        )
        session.add(finished)
        for number, (state, at) in enumerate(
            [("reported", long_ago), ("reported", utc_now()), ("waiting", long_ago)]
        ):
            session.add(
                CommitmentReportRow(
                    peer="PACS", transaction_uid=f"1.2.8.{number}", referenced={"instances": []},
                    asked_at=at, state=state, not_before=at,
                )
            )  # fmt: skip
    for _ in range(2):
        prune_commitments(database, Audit("housekeeping"), 30.0)
    with database.snapshot() as session:
        left = {row.transaction_uid for row in session.scalars(select(CommitmentRequestRow))}
        left |= {row.transaction_uid for row in session.scalars(select(CommitmentReportRow))}
    assert left == {asked.transaction_uid, "1.2.8.1", "1.2.8.2"}
    ((_, detail),) = events(database, "commitments_pruned")
    assert (detail["requests_to_destinations"], detail["requests_of_senders"]) == (1, 1)


def test_a_sender_that_asks_for_what_is_all_here_gets_event_type_1(
    settings: Settings, database: Database
) -> None:
    kept = image()
    with archive_at(settings) as archive, listening(settings, database):
        store(settings, kept)
        dataset = action_information("1.2.840.1", refer(kept.SOPInstanceUID))
        assert request_of_node(settings, "1.2.840.1", dataset) == 0
        send_reports(settings, database)
        send_reports(settings, database)
    ((kind, report),) = archive.reported
    assert kind == 1
    assert "FailedSOPSequence" not in report


def test_a_report_that_is_not_taken_is_tried_again_also_by_a_new_process(
    settings: Settings, database: Database
) -> None:
    with listening(settings, database):
        dataset = action_information("1.2.840.2", refer("1.2.3.4"))
        assert request_of_node(settings, "1.2.840.2", dataset) == 0
    send_reports(settings, database)  # nobody there
    due_now(database)
    with archive_at(settings) as archive:
        archive.rejecting = True
        send_reports(settings, database)
        archive.rejecting = False
        due_now(database)
        send_reports(settings, database)
        assert len(archive.reported) == 1
    told = [detail for _, detail in events(database, "commitment_report_retried")]
    assert "does not answer" in told[0]["reason"]
    assert told[1]["reason"] == "answered 0213"


def due_now(database: Database) -> None:
    with database.transaction() as session:
        for row in session.scalars(select(CommitmentReportRow)):
            assert row.not_before > utc_now()
            row.not_before = utc_now()


def test_a_report_that_is_never_taken_is_given_up(settings: Settings, database: Database) -> None:
    once = settings.model_copy(
        update={"delivery": settings.delivery.model_copy(update={"maximum_attempts": 1})}
    )
    with listening(settings, database):
        request_of_node(settings, "1.2.840.3", action_information("1.2.840.3", refer("1.2.3.4")))
    send_reports(once, database)
    assert events(database, "commitment_report_dead")[0][1]["attempt"] == 1
    send_reports(once, database)
    assert len(events(database, "commitment_report_dead")) == 1


def test_the_same_request_again_is_reported_again_and_another_under_its_uid_is_refused(
    settings: Settings, database: Database
) -> None:
    uid = "1.2.840.4"
    with archive_at(settings) as archive, listening(settings, database):
        for _ in range(2):
            assert request_of_node(settings, uid, action_information(uid, refer("1.2.3.4"))) == 0
            send_reports(settings, database)
        assert request_of_node(settings, uid, action_information(uid, refer("1.2.3.5"))) == 0x0210
    assert len(archive.reported) == 2


def empty_request() -> Dataset:
    return action_information("1.2.840.5", ())


def without_transaction() -> Dataset:
    dataset = action_information("1.2.840.5", refer("1.2.3"))
    del dataset.TransactionUID
    return dataset


def with_hostile_uid() -> Dataset:
    return action_information("1.2.840.5", refer("../../etc/passwd"))


@pytest.mark.parametrize(
    ("dataset", "action_type", "status"),
    [
        (empty_request(), 1, 0x0115),
        (without_transaction(), 1, 0x0115),
        (with_hostile_uid(), 1, 0x0115),
        (action_information("1.2.840.5", refer("1.2.3")), 2, 0x0123),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    settings: Settings, database: Database, dataset: Dataset, action_type: int, status: int
) -> None:
    with listening(settings, database):
        assert request_of_node(settings, "1.2.840.5", dataset, action_type) == status
    with database.snapshot() as session:
        assert session.scalars(select(CommitmentReportRow)).all() == []
