"""`dicomnode check`: clock, devices, peers in both directions. The self-test has a file of its own."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.sop_class import SegmentationStorage

from dicomnode.checks import clock, node
from dicomnode.checks.files import check_files
from dicomnode.checks.finding import Finding, Verdict
from dicomnode.checks.peers import check_calls, check_peer
from dicomnode.deliver.sender import echo
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.observe.machine import GpuMemory
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, is_new, utc_now
from dicomnode.settings.node import PeerSettings, Settings
from tests.dicomnode.parts import image, peer_answering, save, settings_in


def verdicts(findings: Iterator[Finding]) -> list[tuple[str, Verdict]]:
    return [(finding.subject, finding.verdict) for finding in findings]


def record(database: Database, event: Event, ae_title: str = "PACS", **detail: Any) -> None:
    with database.transaction() as session:
        Audit("receiver").record(session, event, Subject(), calling_ae_title=ae_title, **detail)


def test_a_clock_behind_the_audit_is_wrong(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    record(database, Event.INSTANCE_RECEIVED)
    assert clock.check_clock(database).verdict is not Verdict.WRONG
    monkeypatch.setattr(clock, "utc_now", lambda: utc_now() - timedelta(hours=1))
    finding = clock.check_clock(database)
    assert finding.verdict is Verdict.WRONG
    assert "set the clock right" in finding.detail


@pytest.mark.parametrize(
    ("answer", "synchronised", "verdict"),
    [(0, True, Verdict.OK), (clock.TIME_ERROR, False, Verdict.NOTE), (-1, None, Verdict.NOTE)],
)
def test_whether_the_clock_is_synchronised_is_what_the_kernel_says(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    answer: int,
    synchronised: bool | None,
    verdict: Verdict,
) -> None:
    class Kernel:
        def adjtimex(self, _: Any) -> int:
            return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel())
    assert clock.is_synchronised() is synchronised
    assert clock.check_clock(database).verdict is verdict


def test_the_kernel_can_really_be_asked() -> None:
    assert clock.is_synchronised() in (True, False, None)


def test_a_peer_is_asked_whether_it_takes_what_it_is_to_get(tmp_path: Path) -> None:
    with peer_answering() as peer:
        settings = settings_in(tmp_path, peer_port=peer.port)
        answers, takes = check_peer(settings, settings.peers["PACS"])
        assert answers.verdict is takes.verdict is Verdict.OK
        assert takes.detail == "takes what it is to get: seg, reports"
        assert peer.received == []
    with peer_answering(sop_classes=[SegmentationStorage]) as peer:
        settings = settings_in(tmp_path, peer_port=peer.port)
        _, takes = check_peer(settings, settings.peers["PACS"])
        assert takes.verdict is Verdict.WRONG
        assert takes.detail.startswith("does not take reports; `dicomnode probe PACS`")


def test_a_peer_that_is_not_there_is_wrong(settings: Settings) -> None:
    assert verdicts(check_peer(settings, settings.peers["PACS"])) == [("peer PACS", Verdict.WRONG)]


def test_the_audit_says_whether_a_peer_has_called(settings: Settings, database: Database) -> None:
    (never,) = check_calls(settings, database, 0.0)
    assert never.verdict is Verdict.NOTE
    assert f"C-ECHO from PACS to LESIONNODE at port {settings.node.port}" in never.detail
    record(database, Event.INSTANCE_RECEIVED, "OTHER")
    assert verdicts(check_calls(settings, database, 0.0)) == [("peer PACS to us", Verdict.NOTE)]
    record(database, Event.INSTANCE_RECEIVED)
    assert verdicts(check_calls(settings, database, 0.0)) == [("peer PACS to us", Verdict.OK)]
    record(database, Event.ASSOCIATION_REJECTED, reason="not at this address")
    (refused,) = check_calls(settings, database, 0.0)
    assert refused.verdict is Verdict.WRONG
    assert "not at this address" in refused.detail


def call_until_taken(settings: Settings, as_ae_title: str, stopping: threading.Event) -> None:
    us = PeerSettings(name="us", ae_title=settings.node.ae_title, host="127.0.0.1", port=settings.node.port)
    while not stopping.is_set():
        try:
            echo(as_ae_title, us)
            return
        except TransientError:
            time.sleep(0.1)


def test_check_waits_for_a_real_call_where_no_node_runs(settings: Settings, database: Database) -> None:
    record(database, Event.INSTANCE_RECEIVED)  # an old call does not count
    stopping = threading.Event()
    caller = threading.Thread(target=call_until_taken, args=(settings, "PACS", stopping))
    caller.start()
    try:
        assert verdicts(check_calls(settings, database, 60.0)) == [("peer PACS to us", Verdict.OK)]
    finally:
        stopping.set()
        caller.join()


def test_nobody_calling_in_the_time_given_is_wrong(settings: Settings, database: Database) -> None:
    record(database, Event.INSTANCE_RECEIVED)
    (silent,) = check_calls(settings, database, 0.1)
    assert silent.verdict is Verdict.WRONG
    assert "has not called in the time given" in silent.detail


def test_a_device_that_is_not_there_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path, '[worker]\ndevices = ["cuda:7"]')
    monkeypatch.setattr(node, "gpu_memory", lambda: [GpuMemory("cuda:0", 1, 2)])
    devices = [finding for finding in node.check_node(settings) if finding.subject == "device"]
    assert [finding.verdict for finding in devices] == [Verdict.WRONG]
    assert "cuda:7 cannot be used" in devices[0].detail
    assert "may name auto, cpu" in devices[0].detail


def test_a_device_that_no_machine_has_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.devices"):
        settings_in(tmp_path, '[worker]\ndevices = ["cpu", "gpu0"]')


def test_a_data_folder_that_cannot_be_made_is_a_finding_and_the_rest_is_checked(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (tmp_path / "data").write_text("a file where the folder should be")
    found = verdicts(node.check_node(settings))
    assert found[:2] == [("database", Verdict.WRONG), ("disk", Verdict.WRONG)]
    assert ("peer PACS", Verdict.WRONG) in found


def test_a_lost_database_is_wrong_and_not_begun_anew_beside_its_images(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    save(image(), settings.spool / "studies/1.2/1.3/1.4_0.dcm")
    (first, *_) = node.check_node(settings)
    assert (first.subject, first.verdict) == ("database", Verdict.WRONG)
    assert "the database that knows them is not there" in first.detail
    assert is_new(Database(settings.database_url))


def test_keys_and_secrets_that_cannot_be_read_are_wrong(tmp_path: Path) -> None:
    more = """
[audit]
signing_key = "none.pem"
[[audit.syslog]]
name = "siem"
host = "127.0.0.1"
port = 6514
ca = "none.pem"
[alerts]
webhook_token_file = "none"
smtp_password_file = "none"
"""
    settings = settings_in(tmp_path, more)
    (tmp_path / "token").write_bytes(b"\xff")
    peer = settings.peer[0].model_copy(update={"dicomweb_token_file": tmp_path / "token"})
    found = verdicts(check_files(settings.model_copy(update={"peer": (peer,)})))
    assert found == [
        (name, Verdict.WRONG) for name in ("alerts", "alerts", "audit", "syslog siem", "peer PACS")
    ]
    assert set(found) - {("peer PACS", Verdict.WRONG)} < set(verdicts(node.check_node(settings)))


def test_keys_and_secrets_that_nobody_named_are_not_missed(settings: Settings) -> None:
    assert list(check_files(settings)) == []


def test_a_state_of_a_model_that_is_not_there_is_noted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, '[models.states]\ntreshold = "shadow"\n')
    assert ("models.states", Verdict.NOTE) in verdicts(node.check_node(settings))


def test_what_hardly_anybody_means_to_leave_out_is_noted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "[web]\nhttps = true\n")
    bare = settings.model_copy(update={"peer": (), "route": ()})
    left_out = {"peer", "route", "models.folder", "web.proxies"}
    assert {(name, Verdict.NOTE) for name in left_out} <= set(verdicts(node.check_node(bare)))
    (tmp_path / "models").mkdir()
    whole = settings_in(tmp_path, '[web]\nhttps = true\nproxies = ["127.0.0.1"]\n')
    assert not left_out & {name for name, _ in verdicts(node.check_node(whole))}
