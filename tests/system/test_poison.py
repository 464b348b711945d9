"""A model that ends its own process: the job fails with a reason, everything else goes on.

Real processes; the model is poisoned from outside (tests/system/poison). Not covered: a process that the
kernel kills for its memory, which looks to the node like any other death.
"""

from __future__ import annotations

import os
import signal
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
POISONOUS_SLICES = 6
"""As in poison/sitecustomize.py."""


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Archive]:
    archive = archive_on_loopback(tmp_path / "pacs")
    yield archive
    archive.stop()


@pytest.fixture
def poisoned(tmp_path: Path, models: Path, pacs: Archive) -> Iterator[Node]:
    """A node whose model kills its process at some series."""
    node = Node(
        tmp_path / "node",
        models,
        pacs.ae_title,
        pacs.port,
        {"CT": "threshold-ct"},
        environment={"PYTHONPATH": os.pathsep.join((str(POISON), str(ROOT)))},
    ).start()
    yield node
    node.stop()


def test_a_job_that_kills_its_worker_fails_after_the_second_time_and_others_go_on(
    poisoned: Node, pacs: Archive, tmp_path: Path
) -> None:
    node = poisoned
    bad = _send(node, pacs, tmp_path / "bad", POISONOUS_SLICES)
    good = _send(node, pacs, tmp_path / "good")
    wait_for(lambda: node.jobs(state="failed"), "the poison has failed", PATIENCE_S)
    late = _send(node, pacs, tmp_path / "late")  # the receiver never noticed, and a worker is there
    for study_uid in (good, late):
        node.wait_until_delivered(study_uid)
    (job,) = node.jobs(study_instance_uid=bad)
    assert (job.state, job.attempt, job.losses) == ("failed", 2, 2)
    assert "was lost in stage segment; 2 worker(s) were lost on this job" in str(job.error)
    assert len(node.events(event="job_recovered", job_id=job.id)) == 1
    assert {event.detail["exit_status"] for event in node.events(event="process_died")} == {-signal.SIGSEGV}
    assert "Segmentation fault" in node.log.read_text("utf-8", "replace")


def _send(node: Node, pacs: Archive, folder: Path, slices: int | None = None) -> str:
    """Send one series of so many slices; the UID of its study."""
    identity = SeriesIdentity()
    volume = phantom(spacing_mm=SPACING_MM).volume
    if slices is not None:
        volume = Volume(volume.voxels[:slices], volume.affine_lps, volume.intensity_unit)
    forward(node, pacs, write_series(volume, folder, identity))
    return identity.study_instance_uid
