"""The forest on balls of two grey levels in noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.bundle import Preprocessing, Window
from inference.codes import Code
from inference.labelmap import Label
from inference.volume import Volume
from training.cases import Case, LoadedCase
from training.errors import DataError, RunError
from training.handcrafted import Forest, ForestSettings, fit_forest, pixel_features, with_operating_point
from training.trust.operating_point import Choices

NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")
LABELS = tuple(
    Label(number=number, name=name, kind="lesion", category=NODULE, type=NODULE)
    for number, name in ((1, "Bright ball"), (2, "Dark ball"))
)
PREPROCESSING = Preprocessing(
    spatial_dims=2,
    spacing_mm=(None, 1.0, 1.0),
    intensity=Window(low=-200.0, high=200.0),
    window_size=(32, 32),
)
SETTINGS = ForestSettings(seed=3, trees=12, depth=8, voxels_per_case=300, scales_px=(1.0, 3.0))


def balls(seed: int, spacing_mm: float = 0.8) -> LoadedCase:
    """Two slices with a bright ball of label 1 and a dark one of label 2, somewhere; noise of 15."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((2, 50, 60), np.uint8)
    rows, columns = np.ogrid[:50, :60]
    for label, low in ((1, 9), (2, 38)):
        row, column = rng.integers(9, 41), rng.integers(low, low + 13)
        truth[:, (rows - row) ** 2 + (columns - column) ** 2 <= 36] = label
    voxels = rng.normal(0.0, 15.0, truth.shape) + np.choose(truth, (0.0, 100.0, -100.0))
    affine = np.diag([3.0, spacing_mm, spacing_mm, 1.0])
    volume = Volume(voxels.astype(np.float32), affine, "HU")
    case = Case(f"case {seed}", f"patient {seed}", "train")
    return LoadedCase(case, volume, truth, np.zeros(truth.shape, np.bool_))


def without(loaded: LoadedCase, label: int) -> LoadedCase:
    truth = np.where(loaded.truth == label, 0, loaded.truth).astype(np.uint8)
    return LoadedCase(loaded.case, loaded.volume, truth, loaded.ignored)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.fixture(scope="module")
def forest() -> Forest:
    return fit_forest((balls(seed) for seed in range(6)), SETTINGS, PREPROCESSING, LABELS)


def test_bright_and_dark_balls_get_their_labels_on_the_grid_of_the_image(forest: Forest) -> None:
    loaded = balls(100, spacing_mm=0.7)
    found = forest.find(loaded.volume)
    assert found.dtype == np.uint8
    assert found.shape == loaded.truth.shape
    for label in (1, 2):
        assert dice(found == label, loaded.truth == label) > 0.8


def test_probabilities_are_of_every_class_on_the_grid_of_the_model(forest: Forest) -> None:
    p = forest.probabilities(balls(100).volume)
    assert p.shape == (3, 2, 40, 48)
    assert torch.allclose(p.sum(dim=0), torch.ones(2, 40, 48), atol=1e-5)


def test_two_fits_of_one_seed_agree_and_of_another_differ(forest: Forest) -> None:
    volume = balls(100).volume
    again = fit_forest((balls(seed) for seed in range(6)), SETTINGS, PREPROCESSING, LABELS)
    assert torch.equal(forest.probabilities(volume), again.probabilities(volume))
    settings = SETTINGS.model_copy(update={"seed": 4})
    other = fit_forest((balls(seed) for seed in range(6)), settings, PREPROCESSING, LABELS)
    assert not torch.equal(forest.probabilities(volume), other.probabilities(volume))


def test_the_operating_point_is_that_of_the_highest_dice(forest: Forest) -> None:
    choices = Choices(thresholds=(0.02, 0.6, 0.98), peaks=(0.0,))
    settled = with_operating_point(forest, [balls(50), balls(51)], choices)
    assert settled.postprocessing.probability_threshold == 0.6
    with pytest.raises(RunError, match="there are none"):
        with_operating_point(forest, [], choices)


def test_a_peak_that_nothing_reaches_is_refused(forest: Forest) -> None:
    choices = Choices(thresholds=(0.5,), peaks=(0.999999,))
    with pytest.raises(RunError, match="no threshold finds a lesion"):
        with_operating_point(forest, [balls(100)], choices)


def test_ignored_voxels_teach_nothing() -> None:
    """Dark balls called bright would confuse the forest if they were not ignored."""
    cases = []
    for seed in range(6):
        loaded = balls(seed)
        wrong = np.where(loaded.truth == 2, 1, loaded.truth).astype(np.uint8)
        cases.append(LoadedCase(loaded.case, loaded.volume, wrong, loaded.truth == 2))
    ignoring = fit_forest(cases, SETTINGS, PREPROCESSING, LABELS[:1])
    loaded = balls(100)
    assert not ignoring.find(loaded.volume)[loaded.truth == 2].any()
    assert dice(ignoring.find(loaded.volume) == 1, loaded.truth == 1) > 0.8


def test_a_label_that_no_case_holds_is_refused() -> None:
    with pytest.raises(DataError, match=r"hold labels \[0, 1\], the forest needs \[0, 1, 2\]"):
        fit_forest([without(balls(0), 2)], SETTINGS, PREPROCESSING, LABELS)
    with pytest.raises(DataError, match=r"hold labels \[\]"):
        fit_forest([], SETTINGS, PREPROCESSING, LABELS)


def test_every_case_is_ticked_off() -> None:
    ticks: list[int] = []
    fit_forest([balls(0), balls(1)], SETTINGS, PREPROCESSING, LABELS, lambda: ticks.append(1))
    assert len(ticks) == 2


def test_features_answer_to_what_they_are_named_for() -> None:
    image = np.zeros((41, 41), np.float32)
    image[:, 20] = 1.0  # a bright vessel
    features = pixel_features(image, (2.0,))
    grey, mean, gradient, laplacian, _, low, _, bright, dark = np.moveaxis(features, -1, 0)[:9]
    assert (grey == image).all()
    assert mean[20, 20] == pytest.approx(1 / np.sqrt(2 * np.pi * 4), rel=0.02)
    assert gradient[20, 18] > 10 * gradient[20, 20]
    assert laplacian[20, 20] == pytest.approx(low[20, 20], rel=1e-3)
    assert bright[20, 20] == pytest.approx(-low[20, 20])
    assert dark[20, 20] == 0.0


def test_the_laplacian_of_a_blob_is_strongest_at_its_own_scale() -> None:
    rows, columns = np.mgrid[-40:41, -40:41]
    blob = np.exp(-(rows**2 + columns**2) / (2 * 6.0**2)).astype(np.float32)
    scales = (2.0, 6.0, 16.0)
    laplacian = [pixel_features(blob, (scale,))[40, 40, 3] for scale in scales]
    assert int(np.argmin(laplacian)) == 1


def test_features_of_a_constant_image_are_finite() -> None:
    assert np.isfinite(pixel_features(np.zeros((9, 1), np.float32), (1.0, 4.0))).all()
