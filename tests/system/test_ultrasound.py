"""Ultrasound from a real Orthanc through the node and back: the lesion lies in the right pixels.

Orthanc's rule forwards the study by C-STORE; the results come back to it. Not covered: a viewer.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import LONG_AXIS
from dicomnode.encode.content import child
from dicomnode.encode.decode import read_frames
from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity
from tests.phantoms.ultrasound import SPACING_MM, ultrasound_phantom, write_loop, write_stills
from tests.real_parts import require_program
from tests.system.node import Node
from tests.system.orthanc import AE, Orthanc

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]

MODEL = "threshold-us"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("orthanc"), node_port=free_port())
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Iterator[Node]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(
        models / "us",
        name=MODEL,
        modality="US",
        intensity_unit="grey",
        postprocessing={"smallest_lesion_share": 0.01},
    )
    folder = tmp_path_factory.mktemp("node")
    running = Node(folder, models, AE, orthanc.dicom_port, {"US": MODEL}, port=orthanc.node_port)
    yield running.start()
    running.stop()


def results(
    orthanc: Orthanc, node: Node, paths: list[Path], identity: SeriesIdentity, folder: Path
) -> tuple[list[Dataset], list[Dataset]]:
    """The SEG and SR that Orthanc has after the study went through the node; dciodvfy has no objection."""
    orthanc.upload(paths)
    node.wait_until_delivered(identity.study_instance_uid)
    found: dict[str, list[Dataset]] = {"SEG": [], "SR": []}
    for modality, datasets in found.items():
        for item in orthanc.instances(identity.study_instance_uid, modality):
            path = orthanc.download(item["id"], folder / f"{item['id']}.dcm")
            said = subprocess.run(
                [require_program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
            )
            assert not re.findall("^Error.*", said.stdout + said.stderr, re.MULTILINE)
            datasets.append(dcmread(path))
    return found["SEG"], found["SR"]


def test_a_loop_comes_back_with_its_lesions_in_the_right_frames_and_pixels(
    orthanc: Orthanc, node: Node, tmp_path: Path
) -> None:
    truth, identity = ultrasound_phantom(5), SeriesIdentity(modality="US", body_part_examined="BREAST")
    series = write_loop(tmp_path / "us", truth.grey, identity, SPACING_MM, "RGB")
    (seg,), reports = results(orthanc, node, [series.instances[0].path], identity, tmp_path)
    content = BytesIO()
    seg.save_as(content)
    masks = highdicom.seg.segread(BytesIO(content.getvalue())).get_pixels_by_source_frame(
        series.instances[0].sop_instance_uid, [1, 2, 3, 4, 5], combine_segments=True
    )
    np.testing.assert_array_equal(masks, truth.numbers)
    assert len(reports) == 2
    axes = [axis for r in reports for g in measurement_groups(r) if (axis := child(g, LONG_AXIS))]
    units = [axis.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue for axis in axes]
    assert units == ["mm", "mm"]


def test_stills_without_a_calibration_come_back_in_pixels(
    orthanc: Orthanc, node: Node, tmp_path: Path
) -> None:
    truth, identity = ultrasound_phantom(3), SeriesIdentity(modality="US", body_part_examined="BREAST")
    series = write_stills(tmp_path / "us", list(truth.grey), identity)
    paths = [instance.path for instance in series.instances]
    (seg,), reports = results(orthanc, node, paths, identity, tmp_path)
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in sorted(paths)]
    found = np.zeros(truth.numbers.shape, bool)
    for frame in read_frames(seg):  # highdicom refuses pixel measures without a spacing
        found[uids.index(str(frame.source_sop_instance_uid))] |= frame.mask
    np.testing.assert_array_equal(found, truth.numbers > 0)
    assert len(seg.SegmentSequence) == 5, "each lesion of each image is its own"
    assert any("in pixels" in str(e.value) for r in reports for e in r.iterall() if e.keyword == "TextValue")


def test_an_image_without_a_lesion_comes_back_with_the_report_that_none_was_seen(
    orthanc: Orthanc, node: Node, tmp_path: Path
) -> None:
    identity = SeriesIdentity(modality="US", body_part_examined="BREAST")
    series = write_stills(tmp_path / "us", [np.full((48, 64), 40, np.uint8)], identity)
    segs, reports = results(orthanc, node, [series.instances[0].path], identity, tmp_path)
    assert not segs
    assert len(reports) == 1
