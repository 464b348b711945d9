"""The life of a model on a running node: shadow, comparison, promotion, rollback.

The models are thresholds, so what each sees follows from the voxels of the phantom. Not covered: load (see
tests/dicomnode/models/test_shadow.py) and the web page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sqlalchemy import select
from typer.testing import CliRunner

from dicomnode.__main__ import app
from dicomnode.encode.decode import read_frames
from dicomnode.records.chain import verify_chain
from dicomnode.records.model_tables import ComparisonRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.bundles import write_bundle
from dicomnode.series_writer import SeriesIdentity, write_series
from inference.registry import find_bundles
from inference.volume import Volume
from tests.phantoms import phantom
from tests.system.node import Node, archive_on_loopback, forward, received, wait_for

THRESHOLDS = {"1.0.0": 80.0, "1.1.0": 110.0, "1.2.0": 60.0}
FULL = np.ones((3, 3, 3))


def graded_patient() -> Volume:
    """A bright lesion, one that is half bright, a dim one, and what only the lowest threshold sees."""
    found = phantom(spacing_mm=(8.0, 2.0, 2.0))
    voxels = found.volume.voxels.copy()
    half = found.mask(2)
    rows = np.flatnonzero(half.any(axis=(0, 2)))
    half[:, : rows[len(rows) // 2], :] = False
    voxels[half] = 100
    voxels[found.mask(3)] = 95
    voxels[2:4, 1:5, 1:5] = 70
    return replace(found.volume, voxels=voxels)


VOLUME = graded_patient()
MASKS = {version: VOLUME.voxels > threshold for version, threshold in THRESHOLDS.items()}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = archive_on_loopback(tmp_path_factory.mktemp("pacs"))
    yield archive
    archive.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: Archive) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    for version, threshold in THRESHOLDS.items():
        write_bundle(folder / "models" / f"threshold-{version}", version=version, threshold=threshold)
    found = Node(
        folder, folder / "models", pacs.ae_title, pacs.port, {"CT": "threshold"}, quiet_period_s=60.0
    )
    found.start()
    yield found
    found.stop()


def send_study(node: Node, pacs: Archive, folder: Path) -> str:
    """Send the patient as a study of its own, and wait until its results are in the PACS."""
    identity = SeriesIdentity()
    forward(node, pacs, write_series(VOLUME, folder, identity))
    node.wait_until_delivered(identity.study_instance_uid)
    return identity.study_instance_uid


def compared(node: Node, study_instance_uid: str, count: int) -> dict[str, ComparisonRow]:
    """The comparisons of a study by the version of the candidate, once there are `count`."""
    versions = {b.digest: b.card.version for b in find_bundles(node.models).bundles.values()}

    def done() -> dict[str, ComparisonRow] | None:
        with node.database.snapshot() as session:
            rows = session.scalars(
                select(ComparisonRow).where(
                    ComparisonRow.study_instance_uid == study_instance_uid,
                    ComparisonRow.compared_at.is_not(None),
                )
            ).all()
        return {versions[row.candidate_digest]: row for row in rows} if len(rows) == count else None

    return wait_for(done, f"{count} comparisons of study {study_instance_uid}")


def command(node: Node, *arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200", "DICOMNODE_CONFIG": str(node.config)}).invoke(
        app, ["models", *arguments]
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def seen_by(pacs: Archive, study_instance_uid: str) -> tuple[str, int]:
    """Version of the model and voxels of the one segmentation that the PACS was sent."""
    (seg,) = [found for found in received(pacs, study_instance_uid) if found.Modality == "SEG"]
    version = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion
    return str(version), sum(int(frame.mask.sum()) for frame in read_frames(seg))


def check_against_truth(row: ComparisonRow, live: str, candidate: str) -> None:
    """Every figure of a comparison, worked out from the voxels of the phantom."""
    one, other = MASKS[live], MASKS[candidate]
    common = int((one & other).sum())
    assert row.error is None
    assert (row.live_voxels, row.candidate_voxels, row.common_voxels) == (one.sum(), other.sum(), common)
    assert row.dice == pytest.approx(2 * common / (one.sum() + other.sum()))
    voxel_mm3 = VOLUME.voxel_volume_mm3
    assert row.live_volume_mm3 == pytest.approx(one.sum() * voxel_mm3, abs=0.1)
    assert row.candidate_volume_mm3 == pytest.approx(other.sum() * voxel_mm3, abs=0.1)
    pieces, count = ndimage.label(one, FULL)
    its_pieces, its_count = ndimage.label(other, FULL)
    both = len({(a, b) for a, b in zip(pieces[one & other], its_pieces[one & other], strict=True)})
    found: tuple[Any, ...] = (row.found_by_both, row.only_live, row.only_candidate)
    assert found == (both, count - both, its_count - both)


def test_the_truth_has_something_to_tell() -> None:
    counts = {version: ndimage.label(mask, FULL)[1] for version, mask in MASKS.items()}
    assert counts == {"1.0.0": 3, "1.1.0": 2, "1.2.0": 4}
    assert 0 < MASKS["1.1.0"].sum() < MASKS["1.0.0"].sum() < MASKS["1.2.0"].sum()


def test_a_candidate_is_compared_promoted_and_rolled_back(node: Node, pacs: Archive, tmp_path: Path) -> None:
    first = send_study(node, pacs, tmp_path / "first")
    rows = compared(node, first, 2)
    check_against_truth(rows["1.1.0"], "1.0.0", "1.1.0")
    check_against_truth(rows["1.2.0"], "1.0.0", "1.2.0")
    assert seen_by(pacs, first) == ("1.0.0", MASKS["1.0.0"].sum())
    shadow_jobs = {job.id for job in node.jobs(shadow=True)}
    assert len(shadow_jobs) == 2
    assert not [delivery for delivery in node.deliveries() if delivery.job_id in shadow_jobs]

    told = json.loads(command(node, "compare", "threshold@1.0.0", "threshold@1.1.0", "--json"))
    assert told["compared"] == 1
    assert told["worst"][0]["study_instance_uid"] == first
    assert told["dice"]["median"] == pytest.approx(rows["1.1.0"].dice)
    assert "Where they disagree most" in command(node, "compare", "threshold@1.0.0", "threshold@1.2.0")

    command(node, "promote", "threshold@1.1.0", "--reason", "fewer false findings")
    second = send_study(node, pacs, tmp_path / "second")
    assert seen_by(pacs, second) == ("1.1.0", MASKS["1.1.0"].sum())
    check_against_truth(compared(node, second, 1)["1.2.0"], "1.1.0", "1.2.0")

    command(node, "rollback", "threshold", "--reason", "misses the dim ones")
    third = send_study(node, pacs, tmp_path / "third")
    assert seen_by(pacs, third) == ("1.0.0", MASKS["1.0.0"].sum())

    changes = [event for event in node.events(event="model_changed")]
    assert [(e.detail["model_version"], e.detail["before"], e.detail["state"]) for e in changes] == [
        ("1.0.0", "live", "retired"),
        ("1.1.0", "shadow", "live"),
        ("1.1.0", "live", "retired"),
        ("1.0.0", "retired", "live"),
    ]
    assert {e.detail["reason"] for e in changes} == {"fewer false findings", "misses the dim ones"}
    assert all(e.actor.startswith("admin ") for e in changes)
    with node.database.snapshot() as session:
        assert verify_chain(session).broken_at is None
