"""The choice of thresholds on cases whose findings can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.errors import RunError
from training.trust.operating_point import Choices, Scored, choose_operating_point, operating_points


def square(size: int, value: float, corner: tuple[int, int], image: np.ndarray) -> None:
    row, column = corner
    image[0, row : row + size, column : column + size] = value


def scored(*squares: tuple[int, float, tuple[int, int], bool], ignored: bool = False) -> Scored:
    """Squares of (size, probability, corner, whether it is a lesion)."""
    certainty, truth = np.zeros((1, 40, 40)), np.zeros((1, 40, 40))
    for size, value, corner, lesion in squares:
        square(size, value, corner, certainty)
        square(size, float(lesion), corner, truth)
    is_lesion = truth > 0
    return Scored(certainty, is_lesion, (certainty > 0) & ~is_lesion & ignored, 2.0)


def test_the_threshold_parts_lesion_from_what_is_less_certain() -> None:
    case = scored((6, 0.7, (3, 3), True), (6, 0.4, (20, 20), False))
    point = choose_operating_point([case], Choices(thresholds=(0.3, 0.5, 0.8), peaks=(0.0,)))
    assert point.probability_threshold == 0.5
    assert (point.dice, point.sensitivity, point.false_per_case) == (1.0, 1.0, 0.0)


def test_the_smallest_lesion_drops_specks_that_are_as_certain() -> None:
    case = scored((6, 0.7, (3, 3), True), (1, 0.9, (20, 20), False))
    choices = Choices(thresholds=(0.5,), peaks=(0.0, 0.8), smallest=(0.0, 4.0, 100.0))
    assert choose_operating_point([case], choices).smallest == 4.0


def test_the_peak_drops_a_piece_that_is_nowhere_certain() -> None:
    lesion = scored((6, 0.6, (3, 3), True), (6, 0.6, (20, 20), False))
    lesion.certainty[0, 5, 5] = 0.95
    point = choose_operating_point([lesion], Choices(thresholds=(0.5,), peaks=(0.0, 0.9)))
    assert (point.peak_probability, point.dice) == (0.9, 1.0)


def test_a_lesion_whose_piece_is_dropped_is_not_hit() -> None:
    case = scored((6, 0.6, (3, 3), True), (6, 0.95, (20, 20), True))
    (point,) = operating_points([case], Choices(thresholds=(0.5,), peaks=(0.9,)))
    assert point.sensitivity == 0.5


def test_a_bound_on_false_findings_is_kept_at_the_price_of_dice() -> None:
    good = scored((6, 0.6, (3, 3), True))
    bad = scored((6, 0.6, (3, 3), True), (1, 0.6, (20, 20), False), (1, 0.6, (30, 30), False))
    weak = scored((6, 0.9, (3, 3), True))
    choices = Choices(thresholds=(0.5, 0.8), peaks=(0.0,))
    assert choose_operating_point([good, bad, weak], choices).probability_threshold == 0.5
    point = choose_operating_point([good, bad, weak], choices, most_false_per_case=0.5)
    assert point.probability_threshold == 0.8
    assert point.sensitivity == pytest.approx(1 / 3)


def test_a_bound_that_nothing_keeps_is_told_with_the_fewest() -> None:
    bad = scored((1, 0.99, (20, 20), False), (1, 0.99, (30, 30), False))
    with pytest.raises(RunError, match=r"fewest are 2\.00"):
        choose_operating_point([bad], Choices(thresholds=(0.5,), peaks=(0.0,)), most_false_per_case=1.0)


def test_dice_sensitivity_and_false_findings_are_means_over_cases() -> None:
    half = scored((4, 0.9, (3, 3), True), (4, 0.2, (30, 3), True), (4, 0.9, (20, 20), False))
    nothing = scored()
    (point,) = operating_points([half, nothing], Choices(thresholds=(0.5,), peaks=(0.0,)))
    assert point.dice == pytest.approx((2 * 16 / (32 + 32) + 1.0) / 2)
    assert point.sensitivity == 0.5
    assert point.false_per_case == 0.5


def test_ignored_voxels_count_neither_way() -> None:
    case = scored((4, 0.9, (3, 3), True), (4, 0.9, (20, 20), False), ignored=True)
    (point,) = operating_points([case], Choices(thresholds=(0.5,), peaks=(0.0,)))
    assert (point.dice, point.false_per_case) == (1.0, 0.0)


def test_one_finding_over_two_lesions_hits_both() -> None:
    case = scored((4, 0.9, (3, 3), True), (4, 0.9, (3, 10), True))
    case.certainty[0, 3, 3:14] = 0.9
    (point,) = operating_points([case], Choices(thresholds=(0.5,), peaks=(0.0,)))
    assert (point.sensitivity, point.false_per_case) == (1.0, 0.0)


def test_without_lesions_there_is_no_sensitivity_and_without_cases_no_choice() -> None:
    (point,) = operating_points([scored()], Choices(thresholds=(0.5,), peaks=(0.0,)))
    assert point.sensitivity is None
    with pytest.raises(RunError, match="there are none"):
        choose_operating_point([], Choices())
