"""Processes die by SIGKILL in the middle of their work; nothing acknowledged is lost or done twice.

Not covered: power failure of the disk itself, and every single point of the path.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import send
from dicomnode.records.chain import verify_chain
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.phantoms import phantom
from tests.system.node import Node, archive_on_loopback, forward, received, wait_for

pytestmark = pytest.mark.slow

FINE_MM = (1.0, 0.3, 0.3)
"""Enough voxels that a job takes longer than it takes to see that it runs."""


@pytest.fixture(scope="module")
def private_pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = archive_on_loopback(tmp_path_factory.mktemp("pacs"))
    yield archive
    archive.stop()


@pytest.fixture(scope="module")
def private_node(
    tmp_path_factory: pytest.TempPathFactory, models: Path, private_pacs: Archive
) -> Iterator[Node]:
    """One node that is killed again and again, each time with a study of its own."""
    folder, pacs = tmp_path_factory.mktemp("node"), private_pacs
    running = Node(
        folder, models, pacs.ae_title, pacs.port, {"CT": "threshold-ct"},
        quiet_period_s=15.0,  # longer than the restart of a receiver takes
    ).start()  # fmt: skip
    yield running
    running.stop()


def test_a_worker_killed_amid_a_job_is_replaced_and_the_result_arrives_once(
    private_node: Node, private_pacs: Archive, tmp_path: Path
) -> None:
    node, pacs, identity = private_node, private_pacs, SeriesIdentity()
    forward(node, pacs, write_series(phantom(spacing_mm=FINE_MM).volume, tmp_path / "study", identity))
    wait_for(lambda: node.jobs(state="running"), "the job is being worked on")
    os.kill(node.process_of("work"), signal.SIGKILL)

    (job,) = node.wait_until_delivered(identity.study_instance_uid)
    assert job.attempt == 2
    assert len(node.events(event="job_recovered", job_id=job.id)) == 1
    _result_is_there_once(node, pacs, identity)


def test_a_receiver_killed_during_an_association_loses_nothing_that_it_acknowledged(
    private_node: Node, private_pacs: Archive, tmp_path: Path
) -> None:
    node, pacs, identity = private_node, private_pacs, SeriesIdentity()
    paths = write_series(phantom().volume, tmp_path / "study", identity)
    pacs.add(paths)
    acknowledged: list[Path] = []
    receiver = node.process_of("receive")
    for response in send(pacs.ae_title, node.peer, paths, 10.0):
        if response.fate is Fate.ACCEPTED:
            acknowledged.append(response.path)
            if len(acknowledged) == len(paths) // 2:
                os.kill(receiver, signal.SIGKILL)
    assert len(paths) // 2 <= len(acknowledged) < len(paths)
    _all_are_kept(node, acknowledged)

    wait_for(lambda: node.answers(), "the receiver is back", 60)
    responses = list(send(pacs.ae_title, node.peer, paths, 10.0))
    assert {response.fate for response in responses} == {Fate.ACCEPTED}
    node.wait_until_delivered(identity.study_instance_uid)
    _result_is_there_once(node, pacs, identity)


def test_the_whole_node_killed_between_job_and_delivery_sends_the_result_once(
    private_node: Node, private_pacs: Archive, tmp_path: Path
) -> None:
    """The PACS is away while the job ends, then everything dies, then the PACS is back."""
    node, pacs, identity = private_node, private_pacs, SeriesIdentity()
    study_uid = identity.study_instance_uid
    pacs.stop()  # before anything could be delivered
    forward(node, pacs, write_series(phantom().volume, tmp_path / "study", identity))
    wait_for(lambda: node.jobs(state="succeeded", study_instance_uid=study_uid), "the job ends")
    wait_for(lambda: node.events(event="destination_lost"), "delivery was tried")
    node.kill_everything()
    assert not node.answers()
    pacs.start()
    node.start()
    node.wait_until_delivered(study_uid)
    _result_is_there_once(node, pacs, identity)


def _all_are_kept(node: Node, paths: list[Path]) -> None:
    """Every acknowledged instance is on disk, whole, and in the database: soon, for it was in the journal."""
    uids = {str(dcmread(path).SOPInstanceUID) for path in paths}
    wait_for(
        lambda: uids <= {row.sop_instance_uid for row in node._rows(InstanceRow)},
        "it is recorded",
    )
    with node.database.snapshot() as session:
        rows = {row.sop_instance_uid: row for row in session.query(InstanceRow)}
    for path in paths:
        sent = dcmread(path)
        row = rows[str(sent.SOPInstanceUID)]
        kept = dcmread(row.path)
        assert kept == sent
        assert len(row.sha256) == hashlib.sha256().digest_size * 2


def _result_is_there_once(node: Node, pacs: Archive, identity: SeriesIdentity) -> None:
    study_uid = identity.study_instance_uid
    assert Counter(found.Modality for found in received(pacs, study_uid)) == {"SEG": 1, "SR": 2}
    assert Counter(job.state for job in node.jobs(study_instance_uid=study_uid)) == {"succeeded": 1}
    with node.database.snapshot() as session:
        assert verify_chain(session).broken_at is None
