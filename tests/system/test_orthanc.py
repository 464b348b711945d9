"""With a real Orthanc as the PACS: its rule forwards a study, results come back, nothing loops.

Orthanc's rule forwards whole studies whenever they are stable, so our results make it send everything
again, our results included: exactly what a careless rule in a hospital does.
Not covered: storage commitment, TLS.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.forms import Form
from dicomnode.profiles import read_profile, write_profile
from dicomnode.records.tables import AuditRow
from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.dicomnode.console import Command
from tests.phantoms import phantom
from tests.real_parts import require_program
from tests.system.node import Node, wait_for
from tests.system.orthanc import AE, Orthanc

COMMITMENT = ("result_stored", "commitment_requested", "result_delivered")

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path / "orthanc", node_port=free_port())
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def forwarding(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[tuple[Orthanc, Node]]:
    """An Orthanc and the node that it forwards to, which is asked to commit to the results."""
    folder = tmp_path_factory.mktemp("forwarding")
    orthanc = Orthanc(folder / "orthanc", node_port=free_port())
    node = Node(
        folder / "node",
        models,
        AE,
        orthanc.dicom_port,
        {"CT": "threshold-ct"},
        storage_commitment=True,
        port=orthanc.node_port,
        quiet_period_s=15.0,  # Orthanc's count comes before that on a busy machine, too
    )
    orthanc.start()
    yield orthanc, node.start()
    node.stop()
    orthanc.stop()


def test_a_forwarded_study_gets_its_results_and_the_rule_does_not_loop(
    forwarding: tuple[Orthanc, Node], tmp_path: Path
) -> None:
    (orthanc, node), identity = forwarding, SeriesIdentity()
    paths = write_series(phantom().volume, tmp_path / "study", identity)
    orthanc.upload(paths)
    node.wait_until_delivered(identity.study_instance_uid)

    (seg,) = orthanc.instances(identity.study_instance_uid, "SEG")
    reports = orthanc.instances(identity.study_instance_uid, "SR")
    assert len(reports) == 2
    files = [orthanc.download(item["id"], tmp_path / f"{item['id']}.dcm") for item in (seg, *reports)]
    _check_references(files, paths, identity)
    _check_with_real_tools(files)
    _check_that_nothing_loops(node, identity, instance_count=len(paths))
    (closed,) = _told(node, identity, "study_completed")
    assert closed.detail["rule"] == "expected_count"
    _check_that_delivered_means_committed(node, identity)


def _told(node: Node, identity: SeriesIdentity, *events: str) -> list[AuditRow]:
    """Events of one study, in their order."""
    story = node.events(study_instance_uid=identity.study_instance_uid)
    return sorted((row for row in story if row.event in events), key=lambda row: row.id)


def _check_that_delivered_means_committed(node: Node, identity: SeriesIdentity) -> None:
    """Orthanc took each object first, was asked to commit to each once, and reported."""
    order = [row.event for row in _told(node, identity, *COMMITMENT)]
    assert order.count("result_stored") == order.count("result_delivered") == 3
    assert order[0] == "result_stored"
    assert order.index("commitment_requested") < order.index("result_delivered")
    asked = [row.detail["instance_count"] for row in _told(node, identity, "commitment_requested")]
    assert sum(asked) == 3
    assert {row.detail["status"] for row in _told(node, identity, "result_delivered")} == {"committed"}


def _check_references(files: list[Path], paths: list[Path], identity: SeriesIdentity) -> None:
    sources = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}
    objects = [dcmread(path) for path in files]
    own = {str(dataset.SOPInstanceUID) for dataset in objects}
    for dataset in objects:
        assert dataset.StudyInstanceUID == identity.study_instance_uid
        assert dataset.PatientID == identity.patient_id
        referenced = {
            str(element.value)
            for element in dataset.iterall()
            if element.keyword == "ReferencedSOPInstanceUID"
        }
        assert referenced
        assert referenced <= sources | own
    seg = objects[0]
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == identity.series_instance_uid
    assert any(
        str(element.value) == seg.SOPInstanceUID
        for report in objects[1:]
        for element in report.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    )


def _check_with_real_tools(files: list[Path]) -> None:
    for path in files:
        verdict = subprocess.run(
            [require_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
        )
        assert not re.findall("^Error.*", verdict.stdout + verdict.stderr, re.MULTILINE)
    for report in files[1:]:
        printed = subprocess.run(
            [require_program("dsrdump"), str(report)], capture_output=True, text=True, check=True
        )
        assert "Imaging Measurement Report" in printed.stdout
        assert "Tracking Unique Identifier" in printed.stdout


def _check_that_nothing_loops(node: Node, identity: SeriesIdentity, instance_count: int) -> None:
    """Wait until the rule has sent our own results back, and then for a rule that would fire once more."""
    wait_for(
        lambda: (
            len(_told(node, identity, "own_result_received")) >= 3
            and len(_told(node, identity, "instance_repeated")) >= instance_count
        ),
        "the rule has sent everything again",
    )
    time.sleep(6)
    assert len(node.jobs(study_instance_uid=identity.study_instance_uid)) == 1
    assert len(_told(node, identity, "study_reopened")) == 0
    assert len(_told(node, identity, "instance_received")) == instance_count


def test_a_late_image_supersedes_the_result_in_the_same_series(
    forwarding: tuple[Orthanc, Node], tmp_path: Path
) -> None:
    (orthanc, node), identity = forwarding, SeriesIdentity()
    paths = write_series(phantom().volume, tmp_path / "study", identity)
    orthanc.upload(paths[:-1])
    node.wait_until_delivered(identity.study_instance_uid)
    orthanc.upload(paths[-1:])
    node.wait_until_delivered(identity.study_instance_uid, jobs=2)

    segs = orthanc.instances(identity.study_instance_uid, "SEG")
    assert len({seg["SeriesInstanceUID"] for seg in segs}) == 1
    assert sorted(int(seg["InstanceNumber"]) for seg in segs) == [1, 2]


def test_a_probed_archive_gets_the_forms_of_its_profile(
    orthanc: Orthanc, models: Path, tmp_path: Path
) -> None:
    """From the probe to the objects in the archive, with a profile that an administrator changed."""
    routes = {"CT": "threshold-ct"}
    node = Node(tmp_path / "node", models, AE, orthanc.dicom_port, routes, port=orthanc.node_port)
    node.write_configuration()
    command = Command(node.config)
    assert command.json("probe", "PACS")["forms"] == ["seg", "reports"]
    profile = tmp_path / "node" / "profiles" / "PACS.toml"
    probed = read_profile(profile)
    forms = (Form.CONTOURS, Form.PICTURES, Form.PDF, Form.RTSTRUCT)
    write_profile(profile, probed.model_copy(update={"forms": forms}))
    node.start()
    try:
        identity = SeriesIdentity()
        orthanc.upload(write_series(phantom().volume, tmp_path / "study", identity))
        node.wait_until_delivered(identity.study_instance_uid)
        lesions = node.events(event="job_succeeded")[0].detail["lesion_count"]
        counts = {
            modality: len(orthanc.instances(identity.study_instance_uid, modality))
            for modality in ("PR", "OT", "DOC", "RTSTRUCT", "SEG", "SR")
        }
        assert counts == {"PR": 1, "OT": 1 + lesions, "DOC": 1, "RTSTRUCT": 1, "SEG": 0, "SR": 0}
        wait_for(lambda: len(node.events(event="own_result_received")) >= 4 + lesions, "they came back")
        assert len(node.jobs()) == 1
    finally:
        node.stop()
