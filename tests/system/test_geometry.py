"""Lesions come back in the right place: phantom -> network -> node -> network -> SEG and reports.

Everything is compared in millimetres in the patient, with the objects that the PACS received.
Not covered here: real images (test_real_mr.py) and viewers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from dicomnode.encode.decode import read_frames
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from inference.measure import Axis, measure_lesions
from tests.phantoms import Orientation, Phantom, phantom
from tests.system.node import Node, forward, received

SPACING_MM = (3.0, 1.0, 1.5)

SITUATIONS: list[tuple[Orientation, bool, float, tuple[int, ...]]] = [
    ("axial", False, 0.0, ()),
    ("axial", True, 0.0, ()),
    ("coronal", False, 0.0, ()),
    ("coronal", True, 0.0, ()),
    ("sagittal", False, 0.0, ()),
    ("sagittal", True, 0.0, ()),
    ("oblique", False, 0.0, ()),
    ("oblique", True, 0.0, ()),
    ("axial", False, 15.0, ()),
    ("axial", False, 15.0, (13, 20)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("orientation", "reversed_slices", "tilt_degrees", "missing"), SITUATIONS)
def test_lesions_return_to_their_place_with_their_size(
    node: Node,
    pacs: Archive,
    tmp_path: Path,
    orientation: Orientation,
    reversed_slices: bool,
    tilt_degrees: float,
    missing: tuple[int, ...],
) -> None:
    truth = phantom(
        orientation,
        SPACING_MM,
        reversed_slices=reversed_slices,
        tilt_degrees=tilt_degrees,
        missing_slices=missing,
    )
    identity = SeriesIdentity(series_description="Phantom of shapes".replace("Phantom", "Set"))
    forward(node, pacs, write_series(truth.volume, tmp_path, identity))
    node.wait_until_delivered(identity.study_instance_uid)

    seg, reports = _by_kind(received(pacs, identity.study_instance_uid))
    found = _lesions_in_space(seg)
    assert len(found) == len(truth.shapes)
    for number, (centroid, volume_mm3) in found.items():
        exact = truth.volume.to_lps_mm(np.argwhere(truth.mask(number)).mean(axis=0))
        assert np.linalg.norm(centroid - exact) < 0.5 * min(SPACING_MM)
        voxels = np.count_nonzero(truth.mask(number)) * truth.volume.voxel_volume_mm3
        assert volume_mm3 == pytest.approx(voxels, rel=0.02)
    _compare_diameters(truth, reports)


def _by_kind(objects: list[Dataset]) -> tuple[Dataset, list[Dataset]]:
    (seg,) = [dataset for dataset in objects if dataset.Modality == "SEG"]
    return seg, [dataset for dataset in objects if dataset.Modality == "SR"]


def _lesions_in_space(seg: Dataset) -> dict[int, tuple[np.ndarray, float]]:
    """Centroid (LPS mm) and volume (mm3) of every segment, by the frames' own geometry alone."""
    points: dict[int, list[np.ndarray]] = {}
    origins: set[tuple[float, ...]] = set()
    frames = list(read_frames(seg))
    for frame in frames:
        assert frame.position_mm is not None and frame.spacing_mm is not None
        rows, columns = np.nonzero(frame.mask)
        places = (
            frame.position_mm
            + np.outer(columns, frame.along_row) * frame.spacing_mm[1]
            + np.outer(rows, frame.along_column) * frame.spacing_mm[0]
        )
        points.setdefault(frame.segment_number, []).append(places)
        origins.add(tuple(np.round(frame.position_mm, 3)))
    normal = np.cross(frames[0].along_row, frames[0].along_column)
    heights = np.unique(np.round(np.array(sorted(origins)) @ normal, 3))
    step_mm = float(np.diff(heights).min())
    assert frames[0].spacing_mm is not None
    area_mm2 = float(np.prod(frames[0].spacing_mm))
    return {
        number: (np.concatenate(parts).mean(axis=0), sum(map(len, parts)) * area_mm2 * step_mm)
        for number, parts in points.items()
    }


def _compare_diameters(truth: Phantom, reports: list[Dataset]) -> None:
    """Long and short axes in the report against those of the true shapes, within one voxel."""
    expected = {
        name: [
            axis.length.value
            for m in measure_lesions(truth.lesion_map, truth.volume)
            if isinstance(axis := getattr(m, attribute), Axis)
        ]
        for name, attribute in (("Long Axis", "long_axis"), ("Short Axis", "short_axis"))
    }
    reported: dict[str, list[float]] = {name: [] for name in expected}
    for report in reports:
        for item in _items(report):
            name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
            if name in reported and item.ValueType == "NUM":
                value = item.MeasuredValueSequence[0]
                assert value.MeasurementUnitsCodeSequence[0].CodeValue == "mm"
                reported[name].append(float(value.NumericValue))
    for name, values in expected.items():
        assert sorted(reported[name]) == pytest.approx(sorted(values), abs=max(SPACING_MM[1:]))


def _items(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence", []))
    return children + [grandchild for child in children for grandchild in _items(child)]
