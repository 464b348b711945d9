"""Reliability and temperature on data whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from training.errors import DataError
from training.trust.calibration import band, calibration, fit_temperature


def drawn(n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and outcomes drawn with them."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, n)
    return p, rng.random(n) < p


def test_outcomes_drawn_with_their_probabilities_are_calibrated() -> None:
    p, happened = drawn()
    result = calibration(p, happened)
    assert result.ece < 0.005
    assert result.mce < 0.02
    assert result.brier == pytest.approx(np.mean(p * (1 - p)), abs=0.003)
    assert result.nll == pytest.approx(-np.mean(p * np.log(p) + (1 - p) * np.log1p(-p)), abs=0.005)


def test_a_model_that_is_always_surer_than_right_has_the_error_of_its_excess() -> None:
    happened = np.arange(1000) < 600
    result = calibration(np.full(1000, 0.9), happened)
    assert result.ece == pytest.approx(0.3)
    assert result.mce == pytest.approx(0.3)
    assert result.brier == pytest.approx(0.6 * 0.01 + 0.4 * 0.81)


def test_the_two_errors_weigh_bins_by_their_voxels_and_not() -> None:
    p = np.array([0.05] * 90 + [0.95] * 10)
    happened = np.zeros(100, np.bool_)
    result = calibration(p, happened, n_bins=10)
    assert result.ece == pytest.approx(0.9 * 0.05 + 0.1 * 0.95)
    assert result.mce == pytest.approx(0.95)
    assert [b.n for b in result.bins] == [90, *[0] * 8, 10]
    assert result.bins[0].mean_probability == pytest.approx(0.05)
    assert result.bins[9].frequency == 0.0
    assert result.bins[4].frequency is None


def test_a_probability_of_one_falls_into_the_last_bin_and_a_sure_mistake_stays_finite() -> None:
    result = calibration(np.array([1.0, 0.0]), np.array([False, True]))
    assert (result.bins[-1].n, result.bins[0].n) == (1, 1)
    assert 10 < result.nll < 20


@pytest.mark.parametrize(
    ("p", "happened"),
    [
        (np.zeros(0), np.zeros(0, np.bool_)),
        (np.zeros(3), np.zeros(2, np.bool_)),
        (np.array([0.5, 1.5]), np.zeros(2, np.bool_)),
        (np.array([0.5, np.nan]), np.zeros(2, np.bool_)),
    ],
)
def test_what_is_no_probability_is_refused(p: np.ndarray, happened: np.ndarray) -> None:
    with pytest.raises(DataError, match="probabilities"):
        calibration(p, happened)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_scaled_logits_is_recovered(temperature: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0.0, 2.0, (60_000, 3))
    p = special.softmax(logits, axis=1)
    truth = (rng.random(60_000)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_mends_what_calibration_measures() -> None:
    p, happened = drawn(50_000)
    logits = 3.0 * np.stack([np.log1p(-p), np.log(p)], axis=1).clip(-20)
    before = calibration(special.softmax(logits, axis=1)[:, 1], happened)
    temperature = fit_temperature(logits, happened.astype(np.uint8))
    after = calibration(special.softmax(logits / temperature, axis=1)[:, 1], happened)
    assert before.ece > 0.03
    assert after.ece < 0.01
    assert after.nll < before.nll


def test_log_probabilities_give_the_temperature_of_logits() -> None:
    rng = np.random.default_rng(2)
    logits, truth = rng.normal(0, 3, (5000, 2)), rng.integers(0, 2, 5000)
    logits[np.arange(5000), truth] += 1.0
    expected = fit_temperature(logits, truth)
    assert fit_temperature(special.log_softmax(logits, axis=1), truth) == pytest.approx(expected, rel=1e-3)


def test_a_temperature_needs_voxels_and_known_classes() -> None:
    with pytest.raises(DataError, match="needs logits"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, np.uint8))
    with pytest.raises(DataError, match="class 2"):
        fit_temperature(np.zeros((1, 2)), np.array([2], np.uint8))


def test_the_band_holds_what_is_near_truth_or_finding_and_not_ignored() -> None:
    probability = np.zeros((2, 9, 30))
    probability[0, 4, 20] = 0.9
    truth, ignored = np.zeros((2, 2, 9, 30), np.bool_)
    truth[0, 4, 5] = True
    ignored[0, 4, 6] = True
    result = band(probability, truth, ignored, 2.0, (5.0, 1.0, 1.0))
    assert result[0, 4].nonzero()[0].tolist() == [3, 4, 5, 7, 18, 19, 20, 21, 22]
    assert result[0, 5].sum() == 6
    assert not result[1].any()


def test_an_infinite_spacing_keeps_the_band_within_a_slice() -> None:
    truth = np.zeros((3, 5, 5), np.bool_)
    truth[1, 2, 2] = True
    result = band(np.zeros(truth.shape), truth, ~truth & False, 3.0, (np.inf, 1.0, 1.0))
    assert result.any(axis=(1, 2)).tolist() == [False, True, False]


def test_an_image_without_truth_and_finding_has_no_band() -> None:
    nothing = np.zeros((1, 4, 4), np.bool_)
    assert not band(np.full((1, 4, 4), 0.4), nothing, nothing, 3.0, (1.0, 1.0, 1.0)).any()
