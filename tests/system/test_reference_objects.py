"""Segmentations of other makers: what we read of them is what dcmqi reads, voxel by voxel in the patient."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from pydicom import dcmread

from dicomnode.encode.decode import read_frames
from tests.real_parts import require_program

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]

OBJECTS = Path(__file__).parents[2].parent / "shared" / "data" / "dicom_reference_seg_sr"
FILES = (
    "dcmqi/liver.dcm",
    "dcmqi/partial_overlaps.dcm",
    "dcmqi/sparse-labelmap-ppv5.dcm",
    "dcmqi/sr-example/seg.dcm",
    "lidc_idri_0001_seg/nodule.dcm",
)
ROUNDING_MM = 1e-2

Places = dict[int, npt.NDArray[np.float64]]


@pytest.mark.skipif(not OBJECTS.is_dir(), reason="the reference objects are not here")
@pytest.mark.parametrize("name", FILES)
def test_segmentations_of_others_are_read_as_dcmqi_reads_them(name: str, tmp_path: Path) -> None:
    ours, theirs = read_by_us(OBJECTS / name), read_by_dcmqi(OBJECTS / name, tmp_path)
    assert set(ours) == set(theirs)
    for number, places in theirs.items():
        assert len(ours[number]) == len(places)
        assert np.abs(_sorted(ours[number]) - _sorted(places)).max() < ROUNDING_MM


def read_by_us(path: Path) -> Places:
    """LPS mm (n, 3) of the voxels of each segment, frame by frame."""
    found = defaultdict(list)
    for frame in read_frames(dcmread(path)):
        assert frame.position_mm is not None
        assert frame.spacing_mm is not None
        rows, columns = np.nonzero(frame.mask)
        found[frame.segment_number].append(
            frame.position_mm
            + np.outer(columns, frame.along_row) * frame.spacing_mm[1]
            + np.outer(rows, frame.along_column) * frame.spacing_mm[0]
        )
    return {number: np.concatenate(parts) for number, parts in found.items()}


def read_by_dcmqi(path: Path, folder: Path) -> Places:
    """LPS mm (n, 3) of the voxels of each segment, by the geometry of ITK images."""
    program = require_program("segimage2itkimage")
    command = [program, "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd", "-p", "q"]
    subprocess.run(command, check=True, capture_output=True)
    described = json.loads((folder / "q-meta.json").read_text("utf-8"))["segmentAttributes"]
    found = {}
    for index, group in enumerate(described, start=1):
        image = SimpleITK.ReadImage(str(folder / f"q-{index}.nrrd"))
        values = SimpleITK.GetArrayFromImage(image)
        steps = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        for segment in group:
            indices = np.argwhere(values == segment["labelID"])[:, ::-1]
            found[int(segment["labelID"])] = indices @ steps.T + image.GetOrigin()
    return found


def _sorted(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rounded = np.round(places / (2 * ROUNDING_MM)).astype(np.int64)
    ordered: npt.NDArray[np.float64] = places[np.lexsort(rounded.T)]
    return ordered
