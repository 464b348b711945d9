"""Real series of every awkward kind go through the running node: results, or the exact reason.

What each series is, and what is right about it, is in tests/dicomnode/test_volumes_real.py; here the
point is that the node takes them over the network, says what became of them, and goes on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import send
from dicomnode.read.folder import read_folder
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.phantoms import phantom
from tests.phantoms.faults import drop_pixel_data, truncate
from tests.system.node import Node

SHARED = Path(__file__).parents[3] / "shared" / "data"
SETS = ("dicom_robustness", "dicom_mr_prostate", "dicom_mr_gbm", "dicom_ct_single_slices")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", SETS)
def test_every_real_series_is_processed_or_ends_with_its_reason(node: Node, pacs: Archive, name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip("the real series are not beside the project")
    for study in read_folder(SHARED / name).studies:
        paths = [instance.path for series in study.series for instance in series.instances]
        responses = list(send(pacs.ae_title, node.peer, paths, 30.0))
        accepted = [response for response in responses if response.fate is Fate.ACCEPTED]
        assert accepted, responses
        node.wait_until_ended(study.study_instance_uid)
        _every_series_has_a_reason(node, study.study_instance_uid)
    assert node.answers()


def _every_series_has_a_reason(node: Node, study_instance_uid: str) -> None:
    stored = {event.series_instance_uid for event in node.events(
        event="instance_received", study_instance_uid=study_instance_uid)}  # fmt: skip
    told = [
        event
        for kind in ("series_routed", "series_not_routed")
        for event in node.events(event=kind, study_instance_uid=study_instance_uid)
    ]
    assert {event.series_instance_uid for event in told} == stored
    assert all(event.detail["reason"] for event in told)
    for job in node.jobs(study_instance_uid=study_instance_uid):
        assert job.state in ("succeeded", "failed", "superseded")
        if job.state == "failed":
            assert job.error
            assert "internal error" not in job.error


@pytest.mark.parametrize(("fault", "reason"), [(truncate, "cut off"), (drop_pixel_data, "pixel data")])
def test_a_broken_image_fails_its_job_with_the_reason_and_disturbs_nothing(
    node: Node, pacs: Archive, tmp_path: Path, fault: object, reason: str
) -> None:
    broken, sound = SeriesIdentity(), SeriesIdentity()
    volume = phantom(spacing_mm=(6.0, 2.0, 2.0)).volume
    broken_paths = write_series(volume, tmp_path / "broken", broken)
    assert callable(fault)
    fault(broken_paths[3])
    for paths in (broken_paths, write_series(volume, tmp_path / "sound", sound)):
        pacs.add(paths)
        list(send(pacs.ae_title, node.peer, paths, 30.0))
    node.wait_until_delivered(sound.study_instance_uid)
    node.wait_until_ended(broken.study_instance_uid)
    (job,) = node.jobs(study_instance_uid=broken.study_instance_uid)
    assert job.state == "failed"
    assert reason in (job.error or "").lower()
