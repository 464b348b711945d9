"""Overlap, distances and surface Dice against values worked out by hand and against other packages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff
from skimage.metrics import hausdorff_distance

from training.metrics import Agreement, agreement

Mask = npt.NDArray[np.bool_]

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (2.7, 0.61, 0.83)
SHAPES = [(7, 16, 18), (2, 9, 11), (1, 30, 26)]


def block(rows: slice, slices: slice = slice(2, 4)) -> Mask:
    mask = np.zeros((8, 20, 20), np.bool_)
    mask[slices, rows, 5:10] = True
    return mask


def blob(shape: tuple[int, int, int], seed: int) -> Mask:
    """Smooth for even seeds, noise for odd ones; both reach the border of the grid."""
    noise = np.random.default_rng(seed).normal(size=shape)
    mask: Mask = ndimage.gaussian_filter(noise, 0.0 if seed % 2 else 1.5, mode="wrap") > 0.05
    return mask


def one_voxel(shape: tuple[int, int, int], index: tuple[int, int, int]) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[index] = True
    return mask


def pairs() -> list[Any]:
    """Masks that are not empty: random ones and degenerate ones, in space and in a plane."""
    found = []
    for shape in SHAPES:
        corner, far = (0, 0, 0), (shape[0] - 1, shape[1] - 1, shape[2] - 1)
        full = np.ones(shape, np.bool_)
        name = "x".join(map(str, shape))
        for seed in range(4):
            found.append(pytest.param(blob(shape, seed), blob(shape, seed + 2), id=f"{name}-random-{seed}"))
        found += [
            pytest.param(one_voxel(shape, corner), one_voxel(shape, far), id=f"{name}-two-single-voxels"),
            pytest.param(one_voxel(shape, far), one_voxel(shape, far), id=f"{name}-one-single-voxel"),
            pytest.param(full, full, id=f"{name}-both-full"),
            pytest.param(full, blob(shape, 0), id=f"{name}-found-full"),
            pytest.param(one_voxel(shape, corner), full, id=f"{name}-truth-full"),
        ]
    return found


def flat(mask: Mask) -> Mask:
    """A single slice as a plane, as `agreement` takes it."""
    plane: Mask = mask[0] if mask.shape[0] == 1 else mask
    return plane


def surface_points(mask: Mask) -> npt.NDArray[Any]:
    padded = np.pad(flat(mask), 1)
    inner = padded.copy()
    for axis in range(padded.ndim):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)
    return np.argwhere(padded & ~inner)


@pytest.mark.parametrize("tolerance", [0.0, 0.7, 1.5, 6.0])
@pytest.mark.parametrize(("found", "truth"), pairs())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_surface_dice_is_that_of_the_authors_of_the_metric(
    found: Mask, truth: Mask, tolerance: float
) -> None:
    reference = pytest.importorskip("surface_distance")
    spacing = ANISOTROPIC[-flat(found).ndim :]
    distances = reference.compute_surface_distances(flat(truth), flat(found), spacing)
    expected = reference.compute_surface_dice_at_tolerance(distances, tolerance)
    result = agreement(found, truth, ANISOTROPIC, tolerance)
    assert result.surface_dice == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_surface_dice_of_one_empty_mask_is_that_of_the_authors_too(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = pytest.importorskip("surface_distance")
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # the package was written for NumPy 1
    empty, full = np.zeros(shape, np.bool_), blob(shape, 0)
    for found, truth in ((empty, full), (full, empty)):
        spacing = ANISOTROPIC[-flat(found).ndim :]
        distances = reference.compute_surface_distances(flat(truth), flat(found), spacing)
        expected = reference.compute_surface_dice_at_tolerance(distances, 1.0)
        assert agreement(found, truth, ANISOTROPIC).surface_dice == expected == 0.0


@pytest.mark.parametrize(("found", "truth"), pairs())
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hausdorff_and_hd95_are_those_of_monai(found: Mask, truth: Mask) -> None:
    one, other = (torch.from_numpy(np.pad(flat(mask), 1))[None, None].float() for mask in (found, truth))
    result = agreement(found, truth, ANISOTROPIC)
    for percentile, distance in ((100.0, result.hausdorff), (95.0, result.hd95)):
        expected = compute_hausdorff_distance(
            one,
            other,
            include_background=True,
            percentile=percentile,
            spacing=ANISOTROPIC[-flat(found).ndim :],
        )
        assert distance == pytest.approx(float(expected.item()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("found", "truth"), pairs())
def test_hausdorff_is_that_of_scipy_and_scikit_image(found: Mask, truth: Mask) -> None:
    one, other = surface_points(found), surface_points(truth)
    scale = np.array(ANISOTROPIC[-one.shape[1] :])
    expected = max(
        directed_hausdorff(one * scale, other * scale)[0], directed_hausdorff(other * scale, one * scale)[0]
    )
    assert agreement(found, truth, ANISOTROPIC).hausdorff == pytest.approx(expected)
    images = []
    for points in (one, other):
        image = np.zeros(np.array(flat(found).shape) + 2, np.bool_)
        image[tuple(points.T)] = True
        images.append(image)
    assert agreement(found, truth, ISOTROPIC).hausdorff == pytest.approx(hausdorff_distance(*images))


@pytest.mark.parametrize(("found", "truth"), pairs())
def test_swapping_the_masks_changes_nothing_but_the_volumes(found: Mask, truth: Mask) -> None:
    one, other = agreement(found, truth, ANISOTROPIC), agreement(truth, found, ANISOTROPIC)
    for metric in ("dice", "iou", "hausdorff", "hd95", "surface_dice"):
        assert getattr(one, metric) == pytest.approx(getattr(other, metric))
    assert (one.volume_found, one.volume_truth) == (other.volume_truth, other.volume_found)


def test_equal_masks_agree_fully() -> None:
    result = agreement(block(slice(2, 6)), block(slice(2, 6)), (2.0, 1.0, 0.5))
    assert result == Agreement(1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 40.0, 40.0)


def test_two_empty_masks_agree_fully() -> None:
    empty = np.zeros((3, 4, 4), np.bool_)
    assert agreement(empty, empty, ISOTROPIC) == Agreement(1.0, 1.0, 0.0, 0.0, 1.0, None, 0.0, 0.0)


@pytest.mark.parametrize("slices", [1, 3])
def test_one_empty_mask_has_no_overlap_and_no_distance(slices: int) -> None:
    full, empty = np.ones((slices, 4, 4), np.bool_), np.zeros((slices, 4, 4), np.bool_)
    n = 16.0 * slices
    assert agreement(empty, full, ISOTROPIC) == Agreement(0.0, 0.0, None, None, 0.0, -1.0, 0.0, n)
    assert agreement(full, empty, ISOTROPIC) == Agreement(0.0, 0.0, None, None, 0.0, None, n, 0.0)


def test_half_overlap_gives_dice_one_half_and_iou_one_third() -> None:
    result = agreement(block(slice(2, 6)), block(slice(4, 8)), ISOTROPIC)
    assert result.dice == pytest.approx(0.5)
    assert result.iou == pytest.approx(1 / 3)


def test_volume_error_is_signed_and_relative_to_the_truth() -> None:
    small, large = block(slice(2, 6)), block(slice(2, 8))
    result = agreement(small, large, (5.0, 0.6, 0.7))
    assert result.volume_error == pytest.approx(-1 / 3)
    assert agreement(large, small, ISOTROPIC).volume_error == pytest.approx(0.5)
    assert result.volume_found == pytest.approx(2 * 4 * 5 * 5.0 * 0.6 * 0.7)
    assert result.volume_truth == pytest.approx(2 * 6 * 5 * 5.0 * 0.6 * 0.7)


def test_two_single_voxels_are_as_far_apart_as_their_centres() -> None:
    one, other = one_voxel((5, 9, 9), (1, 2, 3)), one_voxel((5, 9, 9), (3, 5, 3))
    result = agreement(one, other, (5.0, 0.5, 0.7))
    assert result.hausdorff == pytest.approx(math.hypot(2 * 5.0, 3 * 0.5))
    assert result.dice == 0.0


@pytest.mark.parametrize(
    ("shift", "expected"), [((1, 0, 0), 5.0), ((0, 2, 0), 1.2), ((0, 0, 3), 2.1), ((1, 2, 0), 5.1419)]
)
def test_shifted_block_is_as_far_as_the_shift_with_anisotropic_spacing(
    shift: tuple[int, int, int], expected: float
) -> None:
    mask = block(slice(4, 9))
    moved = np.roll(mask, shift, axis=(0, 1, 2))
    assert agreement(moved, mask, (5.0, 0.6, 0.7)).hausdorff == pytest.approx(expected, abs=1e-3)


def test_a_surface_exactly_at_the_tolerance_is_within_it() -> None:
    truth = block(slice(0, 20), slice(0, 8))
    moved = np.roll(truth, 3, axis=2)
    assert 3 * 0.1 > 0.3, "in floating point"
    assert agreement(moved, truth, (1.0, 1.0, 0.1), tolerance=0.3).surface_dice == 1.0
    assert agreement(moved, truth, (1.0, 1.0, 0.1), tolerance=0.29).surface_dice < 1.0


def test_a_far_speck_moves_the_hausdorff_distance_but_not_hd95() -> None:
    truth = block(slice(2, 18))
    found = truth.copy()
    found[7, 19, 19] = True
    result = agreement(found, truth, ISOTROPIC)
    assert result.hausdorff is not None and result.hausdorff > 10
    assert result.hd95 == pytest.approx(0.0)


def test_a_mask_at_the_edge_of_the_grid_has_a_surface_there() -> None:
    whole = np.ones((4, 6, 6), np.bool_)
    part = whole.copy()
    part[:, :, 3:] = False
    assert agreement(whole, part, (1.0, 1.0, 2.0)).hausdorff == pytest.approx(6.0)


def test_a_hole_in_a_single_image_is_measured_from_its_contour() -> None:
    full = np.ones((1, 21, 21), np.bool_)
    ring = full.copy()
    ring[0, 10, 10] = False
    result = agreement(full, ring, ISOTROPIC)
    assert result.hausdorff == pytest.approx(9.0), "from beside the hole to the border of the image"
    assert result.volume_truth == 440.0


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        agreement(np.zeros((1, 2, 3), np.bool_), np.zeros((1, 2, 4), np.bool_), ISOTROPIC)
