"""Cases, the split by patient, and the way from NIfTI to LPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.crops import save, write_crops
from training.data import digest, load_case, of_split, read_manifest, to_lps
from training.errors import DataError


def test_a_patient_in_two_splits_is_refused_by_name(tmp_path: Path) -> None:
    manifest = "case,split,patient\na,train,P1\nb,test,P1\nc,val,P2\n"
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(DataError, match="more than one split: P1"):
        read_manifest(tmp_path)


def test_every_case_is_in_the_split_the_manifest_says(tmp_path: Path) -> None:
    cases = read_manifest(write_crops(tmp_path / "crops"))
    assert [len(of_split(cases, split)) for split in ("train", "val", "test")] == [3, 1, 1]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("a,later,P1", "'later' is none of"), ("a,train,", "line 2 lacks patient"), ("", "lists no cases")],
)
def test_a_malformed_manifest_is_refused_with_the_reason(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"case,split,patient\n{line}\n")
    with pytest.raises(DataError, match=complaint):
        read_manifest(tmp_path)


def test_a_missing_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        read_manifest(tmp_path / "absent")


def test_nifti_position_becomes_the_same_point_in_lps() -> None:
    affine_ras = np.array([[-0.7, 0, 0, -11.0], [0, -0.6, 0, -40.0], [0, 0, 2.5, -125.0], [0, 0, 0, 1.0]])
    column, row, index = 10, 20, 3
    ras = affine_ras @ [column, row, index, 1]
    lps = to_lps(affine_ras) @ [index, row, column, 1]
    assert np.allclose(lps, ras * [-1, -1, 1, 1])


def test_rows_and_columns_of_a_case_fit_its_geometry(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops")
    loaded = load_case(folder, read_manifest(folder)[0], "HU", 2)
    assert loaded.volume.shape == (5, 40, 48)
    assert loaded.volume.spacing_mm == pytest.approx((2.5, 0.7, 0.7))
    assert np.argwhere(loaded.lesion).mean(axis=0) == pytest.approx([2, 12, 30])
    assert loaded.volume.voxels[loaded.lesion].mean() > -100


def test_a_region_too_few_readers_saw_is_doubtful_and_a_border_is_not(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", ("train",))
    raters = np.zeros((48, 40, 5), np.uint8)
    raters[10:20, 10:20, 1:4] = 1
    raters[12:18, 12:18, 1:4] = 3
    raters[30:33, 30:33, 2] = 1
    save(folder / "CASE_0" / "raters.nii.gz", raters)
    loaded = load_case(folder, read_manifest(folder)[0], "HU", 2)
    assert loaded.lesion.sum() == 6 * 6 * 3
    assert loaded.doubtful.sum() == 9


def test_a_truth_on_another_grid_is_refused(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", ("train",))
    save(folder / "CASE_0" / "raters.nii.gz", np.zeros((48, 40, 4), np.uint8))
    with pytest.raises(DataError, match="different grids"):
        load_case(folder, read_manifest(folder)[0], "HU", 2)


def test_the_digest_changes_with_one_voxel_of_one_file(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops")
    cases = read_manifest(folder)
    before = digest(folder, cases)
    assert digest(folder, cases) == before
    save(folder / "CASE_4" / "raters.nii.gz", np.zeros((48, 40, 5), np.uint8))
    assert digest(folder, cases) != before
