"""What is found in data before training: each problem by its case, none of them in good data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from inference.volume import Volume
from training.cases import Case, LoadedCase, Split
from training.checks import HASH_SIZE, Problem, check, perceptual_hash
from training.datasets.catalogue import open_dataset
from training.errors import DataError

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
SHAPE = (3, 64, 72)
SPLITS: tuple[Split, ...] = ("train", "train", "val", "test")


@dataclass
class InMemory:
    """Cases that were made, not read; `broken` ones cannot be loaded. Counts how often each is."""

    loaded: list[LoadedCase]
    folder: Path = Path("nowhere")
    broken: frozenset[str] = frozenset()
    loads: Counter[str] = field(default_factory=Counter)

    def cases(self) -> list[Case]:
        return [item.case for item in self.loaded]

    def load(self, case: Case) -> LoadedCase:
        self.loads[case.name] += 1
        if case.name in self.broken:
            raise DataError(f"{case.name}.png cannot be read")
        return next(item for item in self.loaded if item.case == case)

    def files(self, case: Case) -> list[Path]:
        return []


def made(number: int, split: Split, label: int = 1) -> LoadedCase:
    """A smooth random image of its own seed, with a lesion of `label` that is largest in slice 1."""
    rng = np.random.default_rng(number)
    voxels = 1000.0 * np.stack([ndimage.gaussian_filter(rng.normal(size=SHAPE[1:]), 5) for _ in range(3)])
    truth = np.zeros(SHAPE, np.uint8)
    truth[1, 10:20, 10:20] = label
    truth[2, 10:12, 10:12] = label
    return LoadedCase(
        Case(f"c{number}", f"g{number}", split),
        Volume(voxels.astype(np.float32), np.eye(4), "arbitrary"),
        truth,
        np.zeros(SHAPE, np.bool_),
    )


@pytest.fixture
def good() -> InMemory:
    return InMemory([made(number, split) for number, split in enumerate(SPLITS)])


def with_voxels(loaded: LoadedCase, voxels: np.ndarray) -> LoadedCase:
    return replace(loaded, volume=replace(loaded.volume, voxels=voxels.astype(np.float32)))


def messages(problems: list[Problem], severity: str) -> list[tuple[str, str]]:
    return [(problem.case, problem.message) for problem in problems if problem.severity == severity]


def test_good_data_have_no_problem(good: InMemory) -> None:
    assert check(good, 1) == []


def test_every_case_is_loaded_once_and_progress_is_told(good: InMemory) -> None:
    told: list[tuple[int, int]] = []
    check(good, 1, progress=lambda done, of: told.append((done, of)))
    assert set(good.loads.values()) == {1}
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_group_in_two_splits_is_an_error(good: InMemory) -> None:
    case = good.loaded[3].case
    good.loaded[3] = replace(good.loaded[3], case=replace(case, group="g0"))
    assert messages(check(good, 1), "error") == [("", "group g0 lies in more than one split; keep it in one")]


def test_an_unreadable_case_is_an_error_and_the_others_are_still_looked_at(good: InMemory) -> None:
    good.broken = frozenset({"c0"})
    good.loaded[3] = with_voxels(good.loaded[3], np.zeros(SHAPE))
    assert messages(check(good, 1), "error") == [
        ("c0", "c0.png cannot be read"),
        ("c3", "every voxel is 0; leave out the image"),
    ]


def test_a_manifest_that_cannot_be_read_is_the_only_problem(tmp_path: Path) -> None:
    problems = check(open_dataset("busi", tmp_path, {}), 1)
    assert [problem.severity for problem in problems] == ["error"]
    assert "manifest.csv cannot be read" in problems[0].message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_counted(value: float, good: InMemory) -> None:
    voxels = good.loaded[1].volume.voxels.copy()
    voxels[1, 0, :7] = value
    good.loaded[1] = with_voxels(good.loaded[1], voxels)
    assert messages(check(good, 1), "error") == [
        ("c1", "7 voxels are not finite; mend or leave out the image")
    ]


def test_a_label_the_model_does_not_have_is_an_error(good: InMemory) -> None:
    good.loaded[1] = made(1, "train", label=3)
    assert messages(check(good, 2), "error") == [
        ("c1", "the mask holds label 3, the model has 2; correct one of them"),
        ("", "label 2 occurs in no case of split train"),
    ]


def test_a_label_without_training_cases_is_an_error_and_without_test_cases_a_warning(good: InMemory) -> None:
    good.loaded[0] = made(0, "train", label=2)
    problems = check(good, 2)
    assert not messages(problems, "error")
    assert messages(problems, "warning") == [
        ("", "label 2 occurs in no case of split val"),
        ("", "label 2 occurs in no case of split test"),
    ]


def test_empty_masks_are_counted_by_split(good: InMemory) -> None:
    good.loaded += [made(number, "train", label=0) for number in range(10, 17)]
    assert messages(check(good, 1), "warning") == [
        ("", "7 of 11 masks are empty (7 train, 0 val, 0 test): c10, c11, c12, c13, c14 and 2 more")
    ]


def test_a_split_without_cases_is_a_warning(good: InMemory) -> None:
    del good.loaded[2]
    assert messages(check(good, 1), "warning") == [("", "no readable case is in split val")]


def test_a_near_duplicate_across_splits_is_named_with_its_twin(good: InMemory) -> None:
    voxels = good.loaded[1].volume.voxels
    noise = np.random.default_rng(9).normal(0.0, 0.02 * voxels.std(), SHAPE)
    good.loaded[3] = with_voxels(good.loaded[3], 0.7 * voxels + 300.0 + noise)
    (warning,) = check(good, 1)
    assert warning.severity == "warning" and warning.case == "c3"
    assert warning.message.startswith("in test, looks like c1 in train: ")


def test_near_duplicates_within_a_split_are_not_a_problem(good: InMemory) -> None:
    good.loaded[1] = with_voxels(good.loaded[1], good.loaded[0].volume.voxels)
    assert check(good, 1) == []


def test_a_test_case_is_also_compared_with_validation(good: InMemory) -> None:
    good.loaded[3] = with_voxels(good.loaded[3], good.loaded[2].volume.voxels)
    (warning,) = check(good, 1)
    assert "looks like c2 in val: 0 of 144 bits differ" in warning.message


def test_how_near_is_near_is_the_callers_choice(good: InMemory) -> None:
    assert len(check(good, 1, near_bits=HASH_SIZE**2)) == 2
    assert check(good, 1, near_bits=-1) == []


def test_the_hash_looks_at_the_slice_with_the_largest_lesion(good: InMemory) -> None:
    loaded = good.loaded[0]
    before = perceptual_hash(loaded)
    voxels = loaded.volume.voxels.copy()
    voxels[[0, 2]] = voxels[[0, 2], ::-1]
    same = perceptual_hash(with_voxels(loaded, voxels))
    voxels[1] = voxels[1, ::-1]
    other = perceptual_hash(with_voxels(loaded, voxels))
    assert before is not None and same is not None and other is not None
    assert np.array_equal(before, same) and np.count_nonzero(before != other) > 40


def test_the_hash_of_an_empty_case_looks_at_the_middle_slice(good: InMemory) -> None:
    lesion = perceptual_hash(good.loaded[0])
    empty = perceptual_hash(replace(good.loaded[0], truth=np.zeros(SHAPE, np.uint8)))
    assert lesion is not None and empty is not None
    assert np.array_equal(lesion, empty)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")
def test_the_real_ultrasound_has_normal_images_and_no_twins_across_splits() -> None:
    problems = check(open_dataset("busi", SHARED / "us_breast_busi", {}), 1)
    assert [problem.severity for problem in problems] == ["warning"]
    assert problems[0].message.startswith("86 of 476 masks are empty (55 train, 7 val, 24 test)")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")
def test_real_twins_are_found_once_groups_are_ignored() -> None:
    data = open_dataset("busi", SHARED / "us_breast_busi", {})
    groups: dict[str, list[LoadedCase]] = {}
    for case in data.cases()[:200]:
        groups.setdefault(case.group, []).append(data.load(case))
    twins = [found[:2] for found in groups.values() if len(found) > 1]
    torn = [
        replace(item, case=Case(item.case.name, item.case.name, split))
        for pair in twins
        for item, split in zip(pair, SPLITS[1::2], strict=True)
    ]
    named = {problem.case for problem in check(InMemory(torn), 1) if "looks like" in problem.message}
    assert len(twins) > 20
    assert len(named) >= 0.9 * len(twins)
