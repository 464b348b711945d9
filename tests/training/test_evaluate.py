"""Counting lesions and findings, and whole scans from NRRD."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np
import numpy.typing as npt
import pytest

from training.errors import DataError
from training.evaluate import count_hits
from training.scans import read_nrrd, read_nrrd_mask


def with_points(*points: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros((6, 10, 10), np.bool_)
    for point in points:
        mask[point] = True
    return mask


def test_a_lesion_is_hit_by_one_voxel_and_a_finding_elsewhere_is_false() -> None:
    truth = with_points((1, 1, 1), (1, 1, 2), (4, 8, 8))
    found = with_points((1, 1, 2), (1, 1, 3), (3, 5, 5))
    assert count_hits(found, truth) == (2, 1, 1)


def test_a_finding_over_two_lesions_hits_both_and_is_not_false() -> None:
    truth = with_points((1, 1, 1), (1, 1, 4))
    assert count_hits(with_points(*((1, 1, c) for c in range(6))), truth) == (2, 2, 0)


def test_a_finding_in_an_excused_region_is_no_hit_and_not_false() -> None:
    truth, doubtful = with_points((1, 1, 1)), with_points((4, 4, 4))
    assert count_hits(doubtful, truth, truth | doubtful) == (1, 0, 0)


def test_nothing_found_and_nothing_there_counts_nothing() -> None:
    assert count_hits(with_points(), with_points()) == (0, 0, 0)


def write_nrrd(path: Path, voxels: npt.NDArray[np.int16], space: str = "left-posterior-superior") -> Path:
    directions = np.diag([0.5, 0.6, 5.0])
    header = {"space": space, "space directions": directions, "space origin": [-10.0, -20.0, 30.0]}
    nrrd.write(str(path), voxels, header)
    return path


def test_a_voxel_of_an_nrrd_scan_lies_where_the_header_says(tmp_path: Path) -> None:
    voxels = np.zeros((8, 7, 4), np.int16)
    voxels[5, 2, 3] = 99
    volume = read_nrrd(write_nrrd(tmp_path / "a_image.nrrd", voxels), "HU")
    index = np.argwhere(volume.voxels == 99)[0]
    assert index.tolist() == [3, 2, 5]
    assert volume.to_lps_mm(index).tolist() == pytest.approx([-10 + 2.5, -20 + 1.2, 30 + 15])


def test_an_nrrd_scan_in_another_space_is_refused(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", np.zeros((3, 3, 3), np.int16), "right-anterior-superior")
    with pytest.raises(DataError, match="convert it to left-posterior-superior"):
        read_nrrd(path, "HU")


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    volume = read_nrrd(write_nrrd(tmp_path / "a.nrrd", np.zeros((3, 3, 3), np.int16)), "HU")
    mask = write_nrrd(tmp_path / "b.nrrd", np.zeros((3, 3, 4), np.int16))
    with pytest.raises(DataError, match="shape"):
        read_nrrd_mask(mask, volume)


def test_a_file_that_is_no_nrrd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as NRRD"):
        read_nrrd(tmp_path / "a.nrrd", "HU")
