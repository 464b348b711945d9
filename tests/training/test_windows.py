"""Training windows: where they lie and what changes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.crops import write_crops, write_experiment
from training.config import Augmentation, Experiment, read_experiment
from training.data import read_manifest
from training.losses import tversky_loss
from training.train import load
from training.windows import PADDING, Source, draw_batch, place, stack_window, to_source, without_lesion

QUIET = Augmentation(scale=0.0, shift_hu=0.0, noise_hu=0.0, thick_slices=0.0, vanish=0.0)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    write_crops(tmp_path / "crops")
    return read_experiment(write_experiment(tmp_path))


@pytest.fixture
def sources(experiment: Experiment) -> list[Source]:
    cases = read_manifest(experiment.data.folder)
    return [to_source(case, experiment.preprocessing) for case in load(experiment, cases)]


def test_the_same_step_gives_the_same_batch_and_another_step_another(
    experiment: Experiment, sources: list[Source]
) -> None:
    batches = [
        draw_batch(sources, step, experiment.fitting, experiment.preprocessing, experiment.augmentation)
        for step in (7, 7, 8)
    ]
    assert torch.equal(batches[0].image, batches[1].image)
    assert not torch.equal(batches[0].image, batches[2].image)


def test_bright_pixels_of_the_middle_channel_are_the_lesion_after_all_turns(
    experiment: Experiment, sources: list[Source]
) -> None:
    for step in range(20):
        batch = draw_batch(sources, step, experiment.fitting, experiment.preprocessing, QUIET)
        assert batch.image.shape == (2, 3, 32, 32)
        assert torch.equal(batch.image[:, 1] > 0.5, batch.lesion)


def test_a_window_around_a_lesion_holds_some_of_it() -> None:
    rng = np.random.default_rng(3)
    lesion = np.zeros((100, 120), np.bool_)
    lesion[40:44, 90:95] = True
    for _ in range(50):
        rows, columns = place((100, 120), lesion, (32, 32), rng)
        assert lesion[rows, columns].shape == (32, 32)
        assert lesion[rows, columns].any()


def test_thick_slices_are_averages_of_their_source_slices() -> None:
    image = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 70, 70), np.float32)
    nothing = np.zeros(image.shape, np.bool_)
    source = Source(image, nothing, nothing, slice_mm=2.5)
    change = QUIET.model_copy(update={"thick_slices": 1.0, "thickest_mm": 5.0})
    means = {stack_window(source, np.random.default_rng(i), 0, change)[0].mean().item() for i in range(30)}
    assert means == {0.5, 1.5, 2.5}


def test_beyond_the_ends_the_lesion_vanishes_and_everything_far_from_it_stays() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(-850, 20, (90, 90)).astype(np.float32)
    lesion = np.zeros((90, 90), np.bool_)
    lesion[40:46, 40:46] = True
    image[lesion] = 50
    covered = without_lesion(image, lesion, rng)
    assert covered[lesion].mean() < -600
    assert np.allclose(covered[:30], image[:30], atol=0.1)


def test_crops_are_mirrored_outwards(sources: list[Source]) -> None:
    assert sources[0].image.shape == (5, 40 + 2 * PADDING, 48 + 2 * PADDING)
    assert np.array_equal(sources[0].image[:, PADDING - 1], sources[0].image[:, PADDING + 1])


def test_tversky_with_equal_weights_is_the_dice_loss() -> None:
    truth = torch.zeros(1, 10, 10, dtype=torch.bool)
    truth[0, :5] = True
    found = torch.zeros(1, 10, 10)
    found[0, 2:8] = 1.0
    dice_with_one_pixel_added = (2 * 30 + 2) / (60 + 50 + 2)
    loss = tversky_loss(found, truth, torch.ones_like(truth), 0.5)
    assert loss.item() == pytest.approx(1 - dice_with_one_pixel_added)


def test_pixels_that_are_not_counted_cost_nothing() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    counted = truth.clone()
    assert tversky_loss(torch.ones(1, 4, 4), truth, counted, 0.5).item() == pytest.approx(0.0)
