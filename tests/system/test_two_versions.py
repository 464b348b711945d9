"""An upgrade without a stop: an older version of the program, from the history, works beside this one.

Not covered: every pair of versions; the older one here is the one before nodes had more than one machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database, newest_revision, revision_of
from dicomnode.records.revisions import Revision
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.phantoms import phantom
from tests.system.node import Node, archive_on_loopback, forward, received, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OLDER = "c5f78cb8d9db"
ROOT = Path(__file__).parents[2]
SPACING_MM = (8.0, 2.0, 2.0)
TIMEOUT_S = 180.0


def unpack_older(folder: Path) -> Path:
    """The older version of the program; skips the test where the history does not reach that far."""
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", OLDER, "dicomnode", "inference"], capture_output=True, check=False
    )
    if archive.returncode != 0:
        pytest.skip(f"commit {OLDER} is not in this clone")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


class Roles:
    """Roles of one node, each of the version whose folder it is given."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, version: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dicomnode", role, "--config", str(self._node.config)]
        environment = {**os.environ, "PYTHONPATH": str(version), "OMP_NUM_THREADS": "1"}
        with self._node.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=version)
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        process.terminate()
        return process.wait(TIMEOUT_S)

    def stop_all(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(TIMEOUT_S)


def send_one(node: Node, pacs: Archive, folder: Path) -> str:
    identity = SeriesIdentity()
    forward(node, pacs, write_series(phantom(spacing_mm=SPACING_MM).volume, folder / "sent", identity))
    return identity.study_instance_uid


def test_workers_of_two_versions_share_a_database_that_the_newer_one_has_migrated(
    tmp_path: Path, models: Path
) -> None:
    older = unpack_older(tmp_path / "older")
    pacs = archive_on_loopback(tmp_path / "pacs")
    node = Node(
        tmp_path / "node", models, pacs.ae_title, pacs.port, {"CT": "threshold-ct"},
        quiet_period_s=TIMEOUT_S, lease_s=TIMEOUT_S,
    )  # fmt: skip
    node.write_configuration()
    roles = Roles(node)
    try:
        receiver, clockwork, _ = [roles.start(role, older) for role in ("receive", "housekeep", "work")]
        wait_for(node.answers, "the older version answers", TIMEOUT_S)
        studies = [send_one(node, pacs, tmp_path)]
        node.wait_until_delivered(studies[0], timeout_s=TIMEOUT_S)
        assert Revision.named(schema_of(node.database)).number < Revision.named(newest_revision()).number

        roles.start("work", ROOT)  # brings the schema to its own revision
        wait_for(lambda: schema_of(node.database) == newest_revision(), "the schema is the newest", TIMEOUT_S)
        worked_by_both = False
        while not worked_by_both and len(studies) < 20:
            studies += [send_one(node, pacs, tmp_path) for _ in range(3)]
            wait_for(lambda: not node.jobs(state="queued"), "every job has a worker", TIMEOUT_S)
            worked_by_both = len({job.worker for job in node.jobs() if job.worker}) == 2
        assert worked_by_both

        assert roles.stop(clockwork) == 0
        roles.start("housekeep", ROOT)
        assert roles.stop(receiver) == 0
        roles.start("receive", ROOT)
        wait_for(node.answers, "the newer version answers", TIMEOUT_S)
        studies.append(send_one(node, pacs, tmp_path))  # and the older worker is still there
        for uid in studies:
            node.wait_until_delivered(uid, timeout_s=TIMEOUT_S)
            assert len(node.jobs(study_instance_uid=uid)) == 1
            results = [dataset.SOPInstanceUID for dataset in received(pacs, uid)]
            assert len(results) == len(set(results)) == 3
        with node.database.snapshot() as session:
            assert not verify_chain(session).faults
    finally:
        roles.stop_all()
        pacs.stop()


def schema_of(database: Database) -> str:
    with database.snapshot() as session:
        found = revision_of(session)
    assert found is not None
    return found
