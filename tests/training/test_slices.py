"""A slice and its neighbours as channels: thin, thick, reversed, and beyond the ends of a crop."""

from __future__ import annotations

import numpy as np
import pytest

from training.config import Augmentation
from training.slices import stack_slices, without_lesion
from training.sources import Source

UNCHANGED = Augmentation()


def stairs(n: int = 6, slice_mm: float | None = 2.5) -> Source:
    """Slice k has the value k; slices 2 and 3 are labelled, slice 5 is ignored."""
    image = np.arange(n, dtype=np.float32)[:, None, None] * np.ones((n, 8, 9), np.float32)
    truth, ignored = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.bool_)
    truth[2:4] = 1
    ignored[5:] = True
    return Source(image, truth, ignored, slice_mm)


def values(source: Source, at: int, context: int, change: Augmentation, seed: int = 0) -> list[float]:
    image, _, _ = stack_slices(source, at, context, change, np.random.default_rng(seed))
    return [float(channel.mean()) for channel in image]


def test_a_slice_stands_between_its_neighbours_and_the_last_is_repeated() -> None:
    assert values(stairs(), 3, 1, UNCHANGED) == [2, 3, 4]
    assert values(stairs(), 0, 2, UNCHANGED) == [0, 0, 0, 1, 2]
    assert values(stairs(), 5, 1, UNCHANGED) == [4, 5, 5]
    assert values(stairs(), 4, 0, UNCHANGED) == [4]


def test_truth_and_ignored_are_those_of_the_slice() -> None:
    for at in range(6):
        _, truth, ignored = stack_slices(stairs(), at, 1, UNCHANGED, np.random.default_rng(0))
        assert truth.shape == ignored.shape == (8, 9)
        assert (truth == (at in (2, 3))).all()
        assert (ignored == (at == 5)).all()


def test_thick_slices_are_averages_that_hold_their_slice_and_neighbours_of_equal_thickness() -> None:
    change = Augmentation(thick_slices=1.0, thickest_mm=5.0)
    assert values(stairs(), 2, 1, change) == [0.5, 2.5, 4.5]
    assert values(stairs(), 5, 0, change) == [4.5], "the last one reaches back"
    seen = {values(stairs(), 2, 0, Augmentation(thick_slices=1.0, thickest_mm=10.0), k)[0] for k in range(30)}
    assert seen == {2.5, 3.0, 3.5}


def test_slices_are_as_thick_as_asked_for_despite_single_precision() -> None:
    source = stairs(slice_mm=float(np.float32(1.2)))
    thickest = Augmentation(thick_slices=1.0, thickest_mm=6.0)
    assert max(values(source, 0, 0, thickest, k)[0] for k in range(30)) == 2.0


@pytest.mark.parametrize("slice_mm", [None, 3.0])
def test_slices_are_not_averaged_without_a_distance_or_where_two_are_too_thick(
    slice_mm: float | None,
) -> None:
    change = Augmentation(thick_slices=1.0, thickest_mm=5.0)
    assert {values(stairs(slice_mm=slice_mm), 2, 0, change, k)[0] for k in range(10)} == {2.0}


def test_the_truth_of_a_thick_slice_is_what_half_of_its_slices_show() -> None:
    change = Augmentation(thick_slices=1.0, thickest_mm=5.0)
    shown = [stack_slices(stairs(), at, 0, change, np.random.default_rng(0))[1].all() for at in range(5)]
    assert shown == [False, True, True, True, False]
    thick = stairs(4, slice_mm=1.25)
    thick.truth[3] = 0
    whole = [stack_slices(thick, 2, 0, change, np.random.default_rng(k)) for k in range(30)]
    by_mean = {float(image.mean()): bool(truth.any()) for image, truth, _ in whole}
    assert by_mean == {2.5: True, 2.0: False, 1.5: False}


def test_slices_are_mirrored_half_of_the_time_and_only_when_named() -> None:
    change = Augmentation(mirror=("slice",))
    seen = [values(stairs(), 2, 1, change, k) for k in range(40)]
    assert {tuple(v) for v in seen} == {(1, 2, 3), (3, 2, 1)}
    assert 8 < seen.count([1, 2, 3]) < 32
    assert {tuple(values(stairs(), 2, 1, Augmentation(mirror=("row",)), k)) for k in range(20)} == {(1, 2, 3)}


def nodule(n: int = 3) -> Source:
    """A bright lesion through every slice of a dark crop."""
    rng = np.random.default_rng(0)
    image = rng.normal(0.1, 0.01, (n, 60, 60)).astype(np.float32)
    truth = np.zeros(image.shape, np.uint8)
    truth[:, 25:33, 25:33] = 1
    image[truth > 0] = 0.8
    return Source(image, truth, np.zeros(image.shape, np.bool_), 2.5)


def test_beyond_the_ends_the_lesion_vanishes_and_within_it_stays() -> None:
    source = nodule()
    lesion = source.truth[0] > 0
    image, truth, _ = stack_slices(source, 0, 1, Augmentation(vanish=1.0), np.random.default_rng(1))
    assert image[0][lesion].mean() < 0.3
    np.testing.assert_array_equal(image[1:], source.image[:2])
    np.testing.assert_array_equal(truth, source.truth[0])
    np.testing.assert_allclose(image[0][:15], source.image[0][:15], atol=1e-3)
    repeated = stack_slices(source, 0, 1, UNCHANGED, np.random.default_rng(1))[0]
    np.testing.assert_array_equal(repeated[0], source.image[0])


def test_a_slice_without_a_lesion_has_nothing_to_lose() -> None:
    image = nodule().image[0]
    nothing = np.zeros(image.shape, np.bool_)
    assert without_lesion(image, nothing, np.random.default_rng(0)) is image


def test_a_lesion_that_fills_its_crop_stays_as_nothing_can_cover_it() -> None:
    image = nodule().image[0]
    np.testing.assert_array_equal(
        without_lesion(image, np.ones(image.shape, np.bool_), np.random.default_rng(0)), image
    )
