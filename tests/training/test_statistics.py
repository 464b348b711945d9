"""Intervals that cover the truth as often as they say, and tests of differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from training.statistics import PairedTest, holm, paired_test, summarise, wilson


def test_mean_and_median_are_those_of_the_values() -> None:
    summary = summarise([1.0, 2.0, 9.0])
    assert (summary.mean, summary.median, summary.n, summary.n_undefined) == (4.0, 2.0, 3, 0)


def test_undefined_values_are_left_out_and_counted_with_their_groups() -> None:
    summary = summarise([1.0, None, 3.0, 5.0], groups=["a", "a", "a", "b"])
    assert (summary.mean, summary.median, summary.n, summary.n_undefined) == (3.0, 3.0, 3, 1)
    assert summary == summarise([1.0, 3.0, 5.0, None], groups=["a", "a", "b", "c"])


def test_nothing_but_undefined_values_has_no_mean() -> None:
    summary = summarise([None, None])
    assert (summary.mean, summary.median, summary.n, summary.n_undefined) == (None, None, 0, 2)
    assert summary.mean_interval is None and summary.median_interval is None


@pytest.mark.parametrize(("values", "groups"), [([0.7], None), ([0.7, 0.9, 0.1], ["a", "a", "a"])])
def test_one_value_or_one_group_has_no_interval(values: list[float], groups: list[str] | None) -> None:
    summary = summarise(values, groups)
    assert summary.mean is not None
    assert summary.mean_interval is None and summary.median_interval is None


def test_two_calls_give_the_same_interval() -> None:
    values = np.random.default_rng(3).random(40).tolist()
    assert summarise(values) == summarise(values)


def test_equal_values_have_an_interval_without_width() -> None:
    assert summarise([0.5] * 8).mean_interval == (0.5, 0.5)
    assert summarise([0.5] * 8).median_interval == (0.5, 0.5)


def test_intervals_are_close_to_those_of_scipy() -> None:
    values = np.random.default_rng(5).normal(10, 2, 60)
    summary = summarise(values.tolist())
    for statistic, interval in (
        (np.mean, summary.mean_interval),
        (np.median, summary.median_interval),
    ):
        expected = stats.bootstrap(
            (values,), statistic, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
        ).confidence_interval
        assert interval == pytest.approx((expected.low, expected.high), abs=0.1)


def test_each_draw_of_groups_has_the_median_of_the_cases_it_holds() -> None:
    """With two groups there are three draws, so the interval can be worked out by hand."""
    summary = summarise([1.0, 2.0, 3.0, 10.0, 20.0], groups=["a", "a", "a", "b", "b"])
    assert summary.median_interval == (2.0, 15.0), "a twice, or b twice; either comes every fourth time"
    assert summary.mean_interval == (2.0, 15.0)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_the_interval_covers_the_truth_about_95_times_in_100(statistic: str) -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(300):
        interval = getattr(summarise(rng.normal(0.8, 0.1, 40).tolist()), f"{statistic}_interval")
        covered += interval[0] <= 0.8 <= interval[1]
    assert 0.90 <= covered / 300 <= 0.985


def clustered(rng: np.random.Generator) -> tuple[list[float], list[int]]:
    """20 patients of 6 images each, which differ little within a patient."""
    patients = rng.normal(0.0, 1.0, 20)
    values = np.repeat(patients, 6) + rng.normal(0.0, 0.1, 120)
    return values.tolist(), np.repeat(np.arange(20), 6).tolist()


def test_drawing_by_patient_covers_the_truth_where_drawing_by_image_does_not() -> None:
    rng = np.random.default_rng(7)
    by_patient = by_image = 0
    widths = []
    for _ in range(150):
        values, groups = clustered(rng)
        wide, narrow = summarise(values, groups).mean_interval, summarise(values).mean_interval
        assert wide is not None and narrow is not None
        by_patient += wide[0] <= 0.0 <= wide[1]
        by_image += narrow[0] <= 0.0 <= narrow[1]
        widths.append((wide[1] - wide[0]) / (narrow[1] - narrow[0]))
    assert by_patient / 150 >= 0.87
    assert by_image / 150 <= 0.7
    assert np.mean(widths) == pytest.approx(np.sqrt(6), rel=0.1)


def test_values_and_groups_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        summarise([1.0, 2.0], groups=["a"])


def test_the_paired_test_is_that_of_scipy() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(25), rng.random(25) + 0.2
    result = paired_test(a.tolist(), b.tolist())
    assert result.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert result.median_difference == pytest.approx(np.median(a - b))
    assert (result.n, result.reason) == (25, "")


def test_six_differences_of_one_sign_have_the_exact_p() -> None:
    a = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert paired_test(a, [0.0] * 6).p == pytest.approx(2 / 2**6)


def test_pairs_without_a_difference_never_make_few_others_significant() -> None:
    a = [0.1, 0.2, 0.3, 0.4, 0.5] + [0.0] * 20
    assert paired_test(a, [0.0] * 25).p == pytest.approx(2 / 2**5)


def test_identical_models_have_p_1() -> None:
    assert paired_test([0.5] * 10, [0.5] * 10) == PairedTest(10, 0.0, 1.0)


def test_too_few_pairs_have_no_p_but_a_reason() -> None:
    result = paired_test([1.0] * 5, [0.0] * 5)
    assert (result.n, result.median_difference, result.p) == (5, 1.0, None)
    assert "too few" in result.reason
    assert paired_test([], []) == PairedTest(0, None, None, "no pair is defined on both sides")


def test_pairs_with_an_undefined_side_are_left_out() -> None:
    a: list[float | None] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, None, 0.9]
    b: list[float | None] = [0.0] * 7 + [None]
    assert paired_test(a, b) == paired_test(a[:6], b[:6])


def test_images_of_one_patient_count_as_one_pair() -> None:
    rng = np.random.default_rng(4)
    values, groups = clustered(rng)
    result = paired_test(values, [0.0] * 120, groups)
    means = [np.mean(values[6 * patient : 6 * patient + 6]) for patient in range(20)]
    assert result.n == 20
    assert result.p == pytest.approx(stats.wilcoxon(means).pvalue)
    ungrouped = paired_test(values, [0.0] * 120).p
    assert ungrouped is not None and result.p is not None and ungrouped < result.p


def test_holm_agrees_with_a_hand_worked_example() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; none may fall."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_1_and_leaves_out_what_was_not_tested() -> None:
    assert holm([None, 0.6, 0.02, None, 0.7]) == [None, 1.0, pytest.approx(0.06), None, 1.0]
    assert holm([]) == []


def test_wilsons_interval_is_that_of_his_formula() -> None:
    z = stats.norm.ppf(0.975)
    centre, half = (8 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * np.sqrt(8 * 2 / 10 + z**2 / 4)
    assert wilson(8, 10) == pytest.approx((centre - half, centre + half))
    assert wilson(0, 0) is None
