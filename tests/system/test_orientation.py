"""The mask lies on the lesion however the patient lay: read by dcmqi and ITK, compared in millimetres.

Nothing of ours reads the segmentation here: dcmqi turns it into an ITK image, whose own geometry says where
each voxel is, and the truth is asked at that place. Gantry tilt is left out: dcmqi makes a straight image
of it, so `test_geometry.py` follows tilted frames one by one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from pydicom import Dataset
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dicomnode.encode.writing import to_bytes
from dicomnode.selftest.volumes import voxel_centres
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.work.pipeline import Assignment, process_series
from inference.labelmap import LesionMap
from inference.volume import Volume
from tests.dicomnode.encode.situations import DIGEST, card
from tests.phantoms import Box, lesion_map_of, read_series
from tests.real_parts import require_program

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]

SHAPE, SPACING_MM = (10, 24, 28), (4.0, 2.0, 1.5)
"""(slice, row, column): all different, so that no two axes can be taken for each other."""
MIDDLE_LPS_MM = (12.0, -20.0, 35.0)
L_SHAPE = (
    Box((9.0, -24.0, 31.0), (8.13, 14.17, 7.11)),
    Box((16.0, -28.5, 31.0), (6.19, 5.07, 7.11)),
    Box((9.0, -24.0, 38.0), (5.23, 4.31, 8.29)),
)
"""Three boxes that touch: no mirror image or turn of it is itself."""

LEFT, POSTERIOR, SUPERIOR = np.eye(3)
LYING = {
    "head first, supine": (LEFT, POSTERIOR),
    "head first, prone": (-LEFT, -POSTERIOR),
    "feet first, supine": (-LEFT, POSTERIOR),
    "feet first, prone": (LEFT, -POSTERIOR),
    "on the right side": (POSTERIOR, -LEFT),
    "on the left side": (-POSTERIOR, LEFT),
    "coronal": (LEFT, -SUPERIOR),
    "coronal from behind": (-LEFT, -SUPERIOR),
    "sagittal": (POSTERIOR, -SUPERIOR),
    "sagittal from the right": (-POSTERIOR, -SUPERIOR),
}
TURNS = {"straight": (0.0, 0.0, 0.0), "oblique": (17.0, -11.0, 23.0)}
CASES = list(product(LYING, (False, True), TURNS))


@pytest.mark.parametrize(("lying", "reversed_slices", "turn"), CASES)
def test_the_mask_lies_on_the_lesion(lying: str, reversed_slices: bool, turn: str, tmp_path: Path) -> None:
    seg = segmentation(lying, reversed_slices, turn, tmp_path)
    compare_in_patient_space(seg, tmp_path)


def _mirrored(seg: Dataset) -> None:
    _change(seg, lambda frames: frames[:, :, ::-1])


def _moved_by_one_pixel(seg: Dataset) -> None:
    _change(seg, lambda frames: np.roll(frames, 1, axis=2))


def _upside_down(seg: Dataset) -> None:
    _change(seg, lambda frames: frames[:, ::-1])


def _in_the_wrong_order(seg: Dataset) -> None:
    _change(seg, lambda frames: frames[::-1])


@pytest.mark.parametrize("spoil", [_mirrored, _moved_by_one_pixel, _upside_down, _in_the_wrong_order])
def test_the_comparison_notices_a_misplaced_mask(spoil: Callable[[Dataset], None], tmp_path: Path) -> None:
    seg = segmentation("head first, supine", False, "oblique", tmp_path)
    spoil(seg)
    with pytest.raises(AssertionError, match="voxels differ"):
        compare_in_patient_space(seg, tmp_path)


def segmentation(lying: str, reversed_slices: bool, turn: str, folder: Path) -> Dataset:
    """The node's segmentation of the phantom, scanned in this way."""
    rotation = Rotation.from_euler("xyz", TURNS[turn], degrees=True)
    directions: npt.NDArray[np.float64] = rotation.apply(np.array(LYING[lying]))
    along_row, along_column = directions
    across: npt.NDArray[np.float64] = np.cross(along_row, along_column) * (-1 if reversed_slices else 1)
    affine = np.eye(4)
    affine[:3, :3] = np.array([across, along_column, along_row]).T * SPACING_MM
    affine[:3, 3] = np.array(MIDDLE_LPS_MM) - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    voxels = np.where(inside(voxel_centres(affine, SHAPE)), 120, 40).astype(np.int16)
    write_series(Volume(voxels, affine, "HU"), folder / "images", SeriesIdentity())
    assignment = Assignment(
        series=read_series(folder / "images"),
        segmenter=_by_threshold,
        card=card(),
        model_digest=DIGEST,
        instance_number=1,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    found = process_series(assignment, lambda _: nullcontext())
    seg: Dataset = found.results[0].dataset
    assert seg.Modality == "SEG"
    return seg


def compare_in_patient_space(seg: Dataset, folder: Path) -> None:
    """Every voxel of dcmqi's image, and only those in the lesion; nothing of the lesion beside the image."""
    path = folder / "seg.dcm"
    path.write_bytes(to_bytes(seg))
    program = require_program("segimage2itkimage")
    command = [program, "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd", "-p", "q"]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("q-*.nrrd")
    image = SimpleITK.ReadImage(str(made))
    marked = SimpleITK.GetArrayFromImage(image) > 0
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    indices = np.moveaxis(np.indices(marked.shape)[::-1], 0, -1)  # ITK counts (column, row, slice)
    places = indices @ direction.T + image.GetOrigin()
    different = int(np.count_nonzero(marked != inside(places)))
    assert different == 0, f"{different} voxels differ"
    assert np.count_nonzero(marked) > 100


def inside(places_lps_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether places (..., 3) are within the L."""
    found: npt.NDArray[np.bool_] = np.logical_or.reduce([box.contains(places_lps_mm) for box in L_SHAPE])
    return found


def _by_threshold(volume: Volume) -> LesionMap:
    numbers, count = ndimage.label(volume.voxels > 80)
    assert count == 1
    return lesion_map_of(numbers)


def _change(seg: Dataset, turn: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    """Other pixels in the same frames at the same places."""
    shape = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: np.prod(shape)]
    seg.PixelData = np.packbits(turn(bits.reshape(shape)).ravel(), bitorder="little").tobytes()
