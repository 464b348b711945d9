"""Labels that share voxels, from a model bundle with one output a label to the segments of a SEG.

The network is real, but its labels are thresholds: every voxel is known. dcmqi reads the segments, too.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dicomnode.encode.check_seg import check_segs
from dicomnode.encode.context import ResultContext
from dicomnode.encode.decode import read_frames
from dicomnode.encode.parts import parts_of
from dicomnode.encode.results import Result, encode_results
from dicomnode.encode.seg import encode_seg
from dicomnode.encode.verify import verify_results
from dicomnode.encode.writing import to_bytes
from dicomnode.errors import ResultRejected
from dicomnode.forms import KINDS
from dicomnode.models.compare import compare, seen_in
from dicomnode.records.audit import Stage
from dicomnode.selftest.bundles import STEEPNESS, WINDOW, write_bundle
from dicomnode.show.returned import lesions_of
from dicomnode.show.stored_report import read_measurements
from dicomnode.work.pipeline import Assignment, Findings, process_series, summarise
from inference.bundle import CARD, NETWORK, read_bundle
from inference.engine import Model
from inference.errors import BundleError
from inference.labelmap import LesionMap
from inference.predict import segment
from tests.dicomnode.encode.situations import COARSE_MM, CREATED_AT, ORGAN, TUMOUR, identity
from tests.phantoms import phantom, write_phantom
from tests.real_parts import require_program

ORGAN_ABOVE, LESION_ABOVE = 80.0, 150.0
"""Thresholds: the organ is everything above the first, the lesions in it what is above the second."""
BRIGHTER = 60
Numbers = npt.NDArray[np.bool_]


def overlapping_bundle(folder: Path) -> Path:
    """A bundle whose network has two outputs, each a threshold of its own."""
    write_bundle(
        folder,
        threshold=ORGAN_ABOVE,
        labels=[ORGAN.model_dump(), TUMOUR.model_dump()],
        labels_overlap=True,
    )
    weights = folder / "models/model.pt"
    state = torch.load(weights, weights_only=True)
    state["model.2.conv.weight"][:2] = STEEPNESS * torch.tensor([[1.0, 1.0], [-1.0, -1.0]])[..., None, None]
    state["model.2.conv.bias"][1] = -STEEPNESS * (LESION_ABOVE - ORGAN_ABOVE) / (WINDOW[1] - WINDOW[0])
    torch.save(state, weights)
    change_card(folder, weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    return folder


def change_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changes))


@dataclass(frozen=True)
class Made:
    """What the whole path made, and the true voxels of organ and lesions."""

    findings: Findings
    context: ResultContext
    organ: Numbers
    lesions: Numbers

    @property
    def seg(self) -> Any:
        (found,) = [result.dataset for result in self.findings.results if result.kind == "seg"]
        return found

    def check(self, results: tuple[Result, ...]) -> None:
        anew = [replace(result) for result in results]  # whose bytes are written again
        verify_results(anew, self.findings.lesion_map, self.findings.measurements, self.context)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three shapes are the organ; the inner half of two of them is brighter: two lesions."""
    folder = tmp_path_factory.mktemp("overlap")
    truth = phantom("oblique", COARSE_MM)
    places = truth.volume.to_lps_mm(np.moveaxis(np.indices(truth.volume.shape), 0, -1))
    lesions = np.zeros(truth.volume.shape, np.bool_)
    for shape in truth.shapes[:2]:
        lesions |= shape.contains(np.array(shape.centre_lps_mm) + 2 * (places - shape.centre_lps_mm))
    voxels = truth.volume.voxels + BRIGHTER * lesions.astype(np.int16)
    series = write_phantom(
        replace(truth, volume=replace(truth.volume, voxels=voxels)), folder / "images", identity()
    )
    bundle = read_bundle(overlapping_bundle(folder / "bundle"))
    model = Model(bundle, torch.device("cpu"))
    assignment = Assignment(
        series=series,
        segmenter=lambda volume: segment(volume, model),
        card=bundle.card,
        model_digest=bundle.digest,
        instance_number=1,
        created_at=CREATED_AT,
    )
    findings = process_series(assignment, unrecorded)
    context = ResultContext(findings.source, bundle.card, bundle.digest, 1, CREATED_AT)
    organ = truth.lesion_map.values > 0
    if (findings.source.volume.voxels != voxels).any():  # the reader sorts slices its own way
        organ, lesions, voxels = organ[::-1], lesions[::-1], voxels[::-1]
    np.testing.assert_array_equal(findings.source.volume.voxels, voxels)
    return Made(findings, context, organ, lesions)


@contextmanager
def unrecorded(stage: Stage) -> Iterator[None]:
    yield


def masks(found: LesionMap) -> list[Numbers]:
    return [
        np.stack([found.plane(lesion.number, index) for index in range(found.shape[0])])
        for lesion in found.lesions
    ]


def test_an_organ_and_the_lesions_in_it_come_back_by_our_reader(made: Made) -> None:
    back = lesions_of(made.seg, made.findings.source, made.context.card.labels)
    organ, first, second = masks(back)
    assert [lesion.label.name for lesion in back.lesions] == ["Liver", "Tumour", "Tumour"]
    np.testing.assert_array_equal(organ, made.organ)
    np.testing.assert_array_equal(first | second, made.lesions)
    assert (organ & first).any() and (organ & second).any()
    assert not (first & second).any()


def test_dcmqi_reads_overlapping_voxels_in_both_segments(made: Made, tmp_path: Path) -> None:
    import SimpleITK

    path = tmp_path / "seg.dcm"
    path.write_bytes(to_bytes(made.seg))
    reader = require_program("segimage2itkimage")
    command = [reader, "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    volume = made.findings.source.volume
    seen = []
    for image in (SimpleITK.ReadImage(str(found)) for found in sorted(tmp_path.glob("*.nrrd"))):
        at = np.argwhere(SimpleITK.GetArrayViewFromImage(image))
        places = [image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in at]
        indices = volume.to_indices(places)
        assert np.abs(indices - np.rint(indices)).max() < 0.01
        seen.append({tuple(index) for index in np.rint(indices).astype(int).tolist()})
    organ, first, second = sorted(seen, key=len, reverse=True)
    assert organ == {tuple(index) for index in np.argwhere(made.organ).tolist()}
    assert first | second == {tuple(index) for index in np.argwhere(made.lesions).tolist()}
    assert (first | second) <= organ


def test_the_segmentation_says_that_segments_overlap_and_has_no_empty_frame(made: Made) -> None:
    assert made.seg.SegmentsOverlap == "YES"
    assert [int(s.SegmentNumber) for s in made.seg.SegmentSequence] == [1, 2, 3]
    assert all(frame.mask.any() for frame in read_frames(made.seg))
    slices = [mask.any(axis=(1, 2)).sum() for mask in masks(made.findings.lesion_map)]
    assert int(made.seg.NumberOfFrames) == sum(slices)


def test_reports_name_the_label_and_measure_each_by_itself(made: Made) -> None:
    reports = [result.dataset for result in made.findings.results if result.kind.startswith("sr_")]
    said = read_measurements(reports)
    assert [lesion.finding for lesion in said.lesions] == ["Liver", "Neoplasm", "Neoplasm"]
    voxel_mm3 = made.findings.source.volume.voxel_volume_mm3
    volumes = [lesion.numbers["Volume"].value for lesion in said.lesions]
    assert volumes[0] == pytest.approx(made.organ.sum() * voxel_mm3, rel=1e-5)
    assert sum(volumes[1:]) == pytest.approx(made.lesions.sum() * voxel_mm3, rel=1e-5)
    totals = [f"{count / 1000 * voxel_mm3:.3g} ml" for count in (made.organ.sum(), made.lesions.sum())]
    summary = f"Liver: 1 organ, total volume {totals[0]}; Tumour: 2 lesions, total volume {totals[1]}."
    assert summary in said.remarks


def test_a_voxel_with_two_labels_counts_once_in_the_audit(made: Made) -> None:
    volume = made.organ.sum() * made.findings.source.volume.voxel_volume_mm3
    assert summarise(made.findings)["total_volume_mm3"] == pytest.approx(volume, abs=0.1)


def test_every_other_form_of_the_result_holds_the_overlap(made: Made) -> None:
    findings = made.findings
    results = encode_results(findings.lesion_map, findings.measurements, made.context, frozenset(KINDS))
    label_maps = [result.dataset for result in results if result.kind == "labelmap"]
    numbers = [[int(s.SegmentNumber) for s in found.SegmentSequence] for found in label_maps]
    assert numbers == [[0, 1], [0, 1, 2]], "a label map has one number for each voxel, so there are two"
    assert {result.kind for result in results} >= {"contours", "rtstruct", "pictures", "pdf"}


def test_a_voxel_that_is_missing_under_another_label_is_found(made: Made) -> None:
    frame = next(f for f in read_frames(made.seg) if f.segment_number == 2)
    organ = next(
        f
        for f in read_frames(made.seg)
        if f.segment_number == 1 and f.source_sop_instance_uid == frame.source_sop_instance_uid
    )
    bit = (organ.number - 1) * frame.mask.size + int(np.flatnonzero(frame.mask)[0])
    kept = made.seg.PixelData
    spoilt = bytearray(kept)
    spoilt[bit // 8] ^= 1 << (bit % 8)
    made.seg.PixelData = bytes(spoilt)
    try:
        with pytest.raises(ResultRejected, match="differs from the lesion map in 1 voxels"):
            made.check(made.findings.results)
    finally:
        made.seg.PixelData = kept
    made.check(made.findings.results)


def test_frames_given_to_the_other_label_are_found(made: Made) -> None:
    groups = made.seg.PerFrameFunctionalGroupsSequence
    item = next(g for g in groups if g.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2)
    item.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    try:
        with pytest.raises(ResultRejected, match="overlaps another segment"):
            made.check(made.findings.results)
    finally:
        item.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


def test_overlapping_labels_over_the_frame_budget_come_in_parts(made: Made) -> None:
    findings = made.findings
    organ, lesion, _ = (int(m.any(axis=(1, 2)).sum()) for m in masks(findings.lesion_map))
    for budget, expected in ((organ + lesion, [2, 1]), (organ, [1, 2])):
        parts = parts_of(findings.lesion_map, budget)
        assert [len(part.lesions) for part in parts] == expected
        segs = [
            encode_seg(findings.lesion_map, findings.measurements, made.context, part=part) for part in parts
        ]
        assert [seg.SegmentsOverlap for seg in segs] == ["YES" if expected[0] == 2 else "NO", "NO"]
        check_segs(segs, findings.lesion_map, made.context, parts)


def test_results_with_overlap_are_compared_label_by_label(made: Made) -> None:
    found = compare(seen_in([made.seg]), seen_in([made.seg]))
    assert (found.dice, len(found.matches)) == (1.0, 3)
    assert found.common_voxels == made.organ.sum() + made.lesions.sum()


def test_a_network_with_a_background_is_refused_where_labels_overlap(tmp_path: Path) -> None:
    folder = overlapping_bundle(tmp_path)
    change_card(folder, labels=[ORGAN.model_dump()])
    model = Model(read_bundle(folder), torch.device("cpu"))
    with pytest.raises(BundleError, match="has 2 outputs, its card asks for 1"):
        segment(phantom().volume, model)


def test_an_ensemble_that_votes_by_other_rules_than_its_card_is_refused(tmp_path: Path) -> None:
    folder = overlapping_bundle(tmp_path)
    member = json.loads((folder / NETWORK).read_text())["network_def"]
    definition = {"_target_": "inference.networks.ensemble.Ensemble", "members": [member, member]}
    (folder / NETWORK).write_text(json.dumps({"network_def": definition}))
    with pytest.raises(BundleError, match="labels_overlap must be that of"):
        read_bundle(folder)
