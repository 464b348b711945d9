"""Cases: grids that agree, splits that exist, and a digest that tells data apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.volume import Volume
from tests.training.crops import save, write_crops
from training.cases import Case, LoadedCase, digest, of_split
from training.datasets.lidc import LidcCrops
from training.errors import DataError

CASE = Case("a", "P1", "train")


def loaded(truth: np.ndarray, ignored: np.ndarray | None = None) -> LoadedCase:
    volume = Volume(np.zeros((2, 3, 4), np.int16), None, "grey")
    return LoadedCase(CASE, volume, truth, np.zeros((2, 3, 4), np.bool_) if ignored is None else ignored)


def test_a_truth_or_ignored_voxels_on_another_grid_are_refused() -> None:
    with pytest.raises(DataError, match=r"case a: .* one grid"):
        loaded(np.zeros((2, 3, 5), np.uint8))
    with pytest.raises(DataError, match=r"case a: .* one grid"):
        loaded(np.zeros((2, 3, 4), np.uint8), np.zeros((3, 4), np.bool_))


def test_a_truth_that_holds_no_label_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="case a: truth must be uint8"):
        loaded(np.zeros((2, 3, 4), np.float32))


def test_the_mask_of_a_label_is_that_label_alone() -> None:
    truth = np.zeros((2, 3, 4), np.uint8)
    truth[0], truth[1] = 1, 2
    assert loaded(truth).mask(2)[1].all() and not loaded(truth).mask(2)[0].any()


def test_a_split_without_cases_is_refused_by_name() -> None:
    cases = [CASE, Case("b", "P2", "test")]
    assert of_split(cases, "test") == cases[1:]
    with pytest.raises(DataError, match="no case in split 'val'"):
        of_split(cases, "val")


def test_the_digest_is_of_the_content_and_not_of_the_order_or_the_place(tmp_path: Path) -> None:
    one, other = (LidcCrops(write_crops(tmp_path / name)) for name in ("one", "other"))
    assert digest(one, one.cases()) == digest(other, list(reversed(other.cases())))


def test_the_digest_changes_with_a_voxel_a_split_a_group_and_a_case(tmp_path: Path) -> None:
    data = LidcCrops(write_crops(tmp_path / "crops"))
    cases = data.cases()
    moved = replace(cases[0], split="test")
    regrouped = replace(cases[0], group="PATIENT_9")
    digests = [
        digest(data, chosen) for chosen in (cases, [moved, *cases[1:]], [regrouped, *cases[1:]], cases[1:])
    ]
    save(data.folder / "CASE_4" / "raters.nii.gz", np.zeros((48, 40, 5), np.uint8))
    assert len({*digests, digest(data, cases)}) == 5


def test_a_file_that_is_missing_is_named_with_its_case(tmp_path: Path) -> None:
    data = LidcCrops(write_crops(tmp_path / "crops"))
    missing = data.folder / "CASE_2" / "raters.nii.gz"
    missing.unlink()
    with pytest.raises(DataError, match=f"case CASE_2: {missing} cannot be read"):
        digest(data, data.cases())
