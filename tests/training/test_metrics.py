"""Dice, IoU and Hausdorff distances against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from training.metrics import Agreement, agreement, summarise

ISOTROPIC = (1.0, 1.0, 1.0)


def block(rows: slice, slices: slice = slice(2, 4)) -> npt.NDArray[np.bool_]:
    mask = np.zeros((8, 20, 20), np.bool_)
    mask[slices, rows, 5:10] = True
    return mask


def test_equal_masks_agree_fully() -> None:
    assert agreement(block(slice(2, 6)), block(slice(2, 6)), ISOTROPIC) == Agreement(1.0, 1.0, 0.0, 0.0)


def test_two_empty_masks_agree_fully() -> None:
    empty = np.zeros((3, 4, 4), np.bool_)
    assert agreement(empty, empty, ISOTROPIC) == Agreement(1.0, 1.0, 0.0, 0.0)


def test_one_empty_mask_has_no_overlap_and_no_distance() -> None:
    full, empty = np.ones((3, 4, 4), np.bool_), np.zeros((3, 4, 4), np.bool_)
    assert agreement(empty, full, ISOTROPIC) == Agreement(0.0, 0.0, None, None)
    assert agreement(full, empty, ISOTROPIC) == Agreement(0.0, 0.0, None, None)


def test_half_overlap_gives_dice_one_half_and_iou_one_third() -> None:
    result = agreement(block(slice(2, 6)), block(slice(4, 8)), ISOTROPIC)
    assert result.dice == pytest.approx(0.5)
    assert result.iou == pytest.approx(1 / 3)


def test_two_single_voxels_are_as_far_apart_as_their_centres_in_mm() -> None:
    one, other = np.zeros((5, 9, 9), np.bool_), np.zeros((5, 9, 9), np.bool_)
    one[1, 2, 3], other[3, 5, 3] = True, True
    result = agreement(one, other, (5.0, 0.5, 0.7))
    assert result.hausdorff_mm == pytest.approx(math.hypot(2 * 5.0, 3 * 0.5))
    assert result.dice == 0.0


@pytest.mark.parametrize(
    ("shift", "expected_mm"), [((1, 0, 0), 5.0), ((0, 2, 0), 1.2), ((0, 0, 3), 2.1), ((1, 2, 0), 5.1419)]
)
def test_shifted_block_is_as_far_as_the_shift_with_anisotropic_spacing(
    shift: tuple[int, int, int], expected_mm: float
) -> None:
    mask = block(slice(4, 9))
    moved = np.roll(mask, shift, axis=(0, 1, 2))
    result = agreement(moved, mask, (5.0, 0.6, 0.7))
    assert result.hausdorff_mm == pytest.approx(expected_mm, abs=1e-3)


def test_distance_is_the_same_in_both_directions() -> None:
    large, small = block(slice(1, 15)), block(slice(6, 8))
    assert agreement(large, small, ISOTROPIC) == agreement(small, large, ISOTROPIC)
    assert agreement(large, small, ISOTROPIC).hausdorff_mm == pytest.approx(7.0)


def test_a_far_speck_moves_the_hausdorff_distance_but_not_hd95() -> None:
    truth = block(slice(2, 18))
    found = truth.copy()
    found[7, 19, 19] = True
    result = agreement(found, truth, ISOTROPIC)
    assert result.hausdorff_mm is not None and result.hausdorff_mm > 10
    assert result.hd95_mm == pytest.approx(0.0)


def test_a_mask_at_the_edge_of_the_grid_has_a_surface_there() -> None:
    whole = np.ones((4, 6, 6), np.bool_)
    part = whole.copy()
    part[:, :, 3:] = False
    assert agreement(whole, part, (1.0, 1.0, 2.0)).hausdorff_mm == pytest.approx(6.0)


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        agreement(np.zeros((1, 2, 3), np.bool_), np.zeros((1, 2, 4), np.bool_), ISOTROPIC)


def test_undefined_values_are_left_out_of_the_mean_and_counted() -> None:
    summary = summarise([1.0, None, 3.0, 5.0])
    assert (summary.mean, summary.median, summary.n, summary.n_undefined) == (3.0, 3.0, 3, 1)


def test_nothing_but_undefined_values_has_no_mean() -> None:
    summary = summarise([None, None])
    assert (summary.mean, summary.median, summary.n, summary.n_undefined) == (None, None, 0, 2)
