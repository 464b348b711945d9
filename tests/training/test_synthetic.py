"""Synthetic lesions on images whose every voxel is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from training.errors import DataError
from training.synthetic import BLEND, LesionPatch, collect, insert


def scene(
    dims: int = 2, channels: int = 2, lesion: bool = True, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Faint noise, with a bright ball of radius 6 and label 2 on the left; channel 1 is twice channel 0."""
    shape = (80, 90) if dims == 2 else (30, 60, 60)
    rng = np.random.default_rng(seed)
    image = rng.normal(0.0, 0.1, shape).astype(np.float32)
    grid = np.indices(shape)
    centre = (40, 25) if dims == 2 else (14, 30, 20)
    far = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    truth = np.where((far <= 6) & lesion, 2, 0).astype(np.uint8)
    image[truth > 0] += 1.0
    return np.stack([image * (n + 1) for n in range(channels)]), truth


def donor(dims: int = 2) -> LesionPatch:
    (patch,) = collect([scene(dims)])
    return patch


def inserted(
    image: np.ndarray, truth: np.ndarray, patch: LesionPatch, seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The new image, the new truth, and the mask of the lesion that came."""
    new_image, new_truth = insert(image, truth, patch, np.random.default_rng(seed))
    return new_image, new_truth, (new_truth > 0) & (truth == 0)


def test_a_patch_is_the_lesion_with_its_label_and_surroundings() -> None:
    image, truth = scene()
    (patch,) = collect([(image, truth)])
    assert patch.label == 2
    assert patch.mask.sum() == (truth == 2).sum()
    assert patch.image.shape == (2, 13 + 12, 13 + 12)
    assert (patch.image[:, patch.mask] == image[:, truth == 2]).all()


def test_every_piece_of_every_label_is_a_patch_and_a_lesion_at_the_edge_is_none() -> None:
    image = np.zeros((1, 50, 50), np.float32)
    truth = np.zeros((50, 50), np.uint8)
    truth[10:14, 10:14], truth[10:14, 30:34], truth[30:34, 30:34] = 1, 1, 2
    truth[48:, 5:9] = 1
    assert [patch.label for patch in collect([(image, truth), (image, truth)])] == [1, 1, 2] * 2


def test_a_lesion_in_the_last_slice_is_a_patch() -> None:
    truth = np.zeros((5, 40, 40), np.uint8)
    truth[4, 15:20, 15:20] = 1
    (patch,) = collect([(np.ones((1, 5, 40, 40), np.float32), truth)])
    assert patch.image.min() == 1.0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_beyond_the_blended_ring_nothing_changes(dims: int, seed: int) -> None:
    image, truth = scene(dims, lesion=False, seed=9)
    new_image, _, came = inserted(image, truth, donor(dims), seed)
    assert came.any()
    changed = (new_image != image).any(axis=0)
    assert changed[came].all()
    assert ndimage.distance_transform_edt(~came)[changed].max() <= BLEND + 1


@pytest.mark.parametrize("dims", [2, 3])
def test_the_lesion_that_comes_is_as_bright_as_its_donor_and_as_large_as_its_scale(dims: int) -> None:
    image, truth = scene(dims, lesion=False, seed=9)
    for seed in range(4):
        new_image, new_truth, came = inserted(image, truth, donor(dims), seed)
        assert set(np.unique(new_truth)) == {0, 2}
        inner = ndimage.binary_erosion(came, iterations=2)
        for channel, brightness in enumerate((1.0, 2.0)):
            assert new_image[channel][inner].mean() == pytest.approx(brightness, rel=0.2)
        assert 0.7**dims < came.sum() / donor(dims).mask.sum() < 1.4**dims


def test_a_lesion_takes_the_grey_level_of_its_new_surroundings() -> None:
    image, truth = scene(lesion=False, seed=9)
    image[:, :, 50:] += 5.0  # far from alike; it widens what counts as alike on the left
    patch = donor()
    brighter = LesionPatch(patch.image + 0.8, patch.mask, patch.label)
    new_image, _, came = inserted(image, truth, brighter)
    ring = ndimage.binary_dilation(came, iterations=3) & ~ndimage.binary_dilation(came)
    assert new_image[0][ring].mean() == pytest.approx(0.0, abs=0.12)
    assert new_image[0][ndimage.binary_erosion(came, iterations=2)].mean() == pytest.approx(1.0, rel=0.2)


def test_a_lesion_goes_where_the_tissue_is_like_that_around_the_donor() -> None:
    image, truth = scene(lesion=False, seed=9)
    image[:, :, 45:] += 3.0
    for seed in range(8):
        _, _, came = inserted(image, truth, donor(), seed)
        assert came.any()
        assert not came[:, 45:].any()


def test_where_no_tissue_is_alike_nothing_comes() -> None:
    image, truth = scene(lesion=False)
    patch = donor()
    strange = LesionPatch(patch.image + 100.0, patch.mask, patch.label)
    new_image, new_truth, _ = inserted(image, truth, strange)
    assert np.array_equal(new_image, image)
    assert np.array_equal(new_truth, truth)


def test_neither_lesion_nor_ring_touches_a_lesion_that_is_there() -> None:
    image, truth = scene()
    n_came = 0
    for seed in range(20):
        new_image, new_truth, came = inserted(image, truth, donor(), seed)
        assert (new_truth[truth > 0] == truth[truth > 0]).all()
        assert (new_image[:, truth > 0] == image[:, truth > 0]).all()
        assert not (ndimage.binary_dilation(came) & (truth > 0)).any()
        n_came += int(came.any())
    assert n_came >= 15


def test_a_full_image_takes_no_more_lesions() -> None:
    image, _ = scene()
    truth = np.ones((80, 90), np.uint8)
    assert not inserted(image, truth, donor())[2].any()


def test_a_lesion_stays_where_it_is_allowed() -> None:
    image, truth = scene(lesion=False, seed=9)
    allowed = np.zeros(truth.shape, np.bool_)
    allowed[40:, 40:] = True
    new_image, new_truth = insert(image, truth, donor(), np.random.default_rng(2), allowed)
    assert new_truth.any()
    assert not new_truth[~allowed].any()
    assert (new_image[:, ~allowed] == image[:, ~allowed]).all()


def test_one_generator_gives_one_result_and_changes_nothing_given() -> None:
    image, truth = scene()
    before = image.copy(), truth.copy()
    one, other = (inserted(image, truth, donor(), seed=7) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert not np.array_equal(one[1], inserted(image, truth, donor(), seed=8)[1])
    assert np.array_equal(image, before[0])
    assert np.array_equal(truth, before[1])
    assert (str(one[0].dtype), str(one[1].dtype)) == ("float32", "uint8")


def test_a_lesion_that_may_not_be_turned_keeps_its_upper_side() -> None:
    image, truth = scene(lesion=False, seed=9)
    wide = np.zeros((25, 35), np.bool_)
    wide[8:17, 8:27] = True
    sides = np.where(wide, np.where(np.arange(25)[:, None] < 12, 1.0, 2.0), 0.0).astype(np.float32)
    sides += image[0, :25, :35]
    patch = LesionPatch(np.stack([sides, 2 * sides]), wide, 1)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        new_image, new_truth = insert(image, truth, patch, rng, turn_degrees=0.0)
        rows, columns = np.nonzero(new_truth)
        assert np.ptp(columns) > 1.5 * np.ptp(rows)
        upper = rows < rows.mean()
        assert new_image[0][new_truth > 0][upper].mean() < new_image[0][new_truth > 0][~upper].mean() - 0.4


def test_a_donor_larger_than_the_image_is_left_out() -> None:
    image, truth = np.zeros((2, 12, 12), np.float32), np.zeros((12, 12), np.uint8)
    assert not inserted(image, truth, donor())[1].any()


def test_a_donor_with_other_channels_is_refused() -> None:
    image, truth = scene(channels=3)
    with pytest.raises(DataError, match="prepared in the same way"):
        insert(image, truth, donor(), np.random.default_rng(0))
    with pytest.raises(DataError, match="on its grid"):
        insert(image, truth[1:], donor(), np.random.default_rng(0))
