"""Models that kill or block their own process: the job fails with a reason, everything else goes on.

Real processes; the model is poisoned from outside (tests/system/poison). A job fails at its first loss here,
for speed; tests/dicomnode/test_jobs.py has the second. Not covered: a process that the kernel kills for its
memory, which looks to the node like any other death.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from inference.volume import Volume
from tests.phantoms import phantom
from tests.system.node import Node, archive_on_loopback, forward, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
POISON = Path(__file__).parent / "poison"
PATIENCE_S = 300.0
SPACING_MM = (8.0, 2.0, 2.0)
SEGFAULTS, SLEEPS, BLOCKS = 6, 7, 8
"""Numbers of slices (poison/sitecustomize.py)."""


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Archive]:
    archive = archive_on_loopback(tmp_path / "pacs")
    yield archive
    archive.stop()


@pytest.fixture
def poisoned(tmp_path: Path, models: Path, pacs: Archive) -> Iterator[Node]:
    """A node with little patience, whose model kills its process at some series."""
    node = Node(
        tmp_path / "node",
        models,
        pacs.ae_title,
        pacs.port,
        {"CT": "threshold-ct"},
        job_timeout_s=6.0,
        maximum_losses=1,
        environment={"PYTHONPATH": os.pathsep.join((str(POISON), str(ROOT)))},
    ).start()
    yield node
    node.stop()


def test_jobs_that_kill_or_block_their_worker_fail_alone_and_others_go_on(
    poisoned: Node, pacs: Archive, tmp_path: Path
) -> None:
    node = poisoned
    bad = {
        slices: _send(node, pacs, tmp_path / str(slices), slices) for slices in (SEGFAULTS, SLEEPS, BLOCKS)
    }
    good = _send(node, pacs, tmp_path / "good")
    wait_for(lambda: len(node.jobs(state="failed")) == len(bad), "all poison has failed", PATIENCE_S)
    node.wait_until_delivered(good)
    late = _send(node, pacs, tmp_path / "late")  # the receiver never noticed, and a worker is there
    node.wait_until_delivered(late)

    for slices, study_uid in bad.items():
        (job,) = node.jobs(study_instance_uid=study_uid)
        assert (job.attempt, job.losses) == (1, 1), slices
        assert "most likely ends or blocks the process" in str(job.error)
    (sleeper,) = node.jobs(study_instance_uid=bad[SLEEPS])
    assert "longer than 6 s (worker.job_timeout_s)" in str(sleeper.error)
    (blocker,) = node.jobs(study_instance_uid=bad[BLOCKS])
    assert "was lost in stage segment" in str(blocker.error)


def _send(node: Node, pacs: Archive, folder: Path, slices: int | None = None) -> str:
    """Send one series of so many slices; the UID of its study."""
    identity = SeriesIdentity()
    volume = phantom(spacing_mm=SPACING_MM).volume
    if slices is not None:
        volume = Volume(volume.voxels[:slices], volume.affine_lps, volume.intensity_unit)
    forward(node, pacs, write_series(volume, folder, identity))
    return identity.study_instance_uid
