"""Training windows: which batch a step gets, what a window shows, and where it lies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from training.config import Augmentation, Experiment
from training.datasets.catalogue import open_dataset
from training.sources import Source, to_source
from training.synthetic import collect
from training.train import views
from training.windows import Sampler, cut_around

STILL: dict[str, Any] = {"rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0, "noise": 0.0}
UNCHANGED = Augmentation(**STILL)


def changed(experiment: Experiment, **fitting: Any) -> Experiment:
    return experiment.model_copy(update={"fitting": experiment.fitting.model_copy(update=fitting)})


def volumetric(experiment: Experiment, **fitting: Any) -> Experiment:
    how = experiment.preprocessing.model_copy(
        update={"spatial_dims": 3, "context_slices": 0, "window_size": (4, 32, 32)}
    )
    return changed(experiment, **fitting).model_copy(update={"preprocessing": how})


@pytest.fixture
def sources(experiment: Experiment) -> list[Source]:
    data = open_dataset("lidc-crops", experiment.data.folder, {})
    return [to_source(data.load(case), experiment.preprocessing, 1) for case in data.cases()]


def blob(
    shape: tuple[int, int, int] = (3, 60, 70), at: tuple[int, int] = (20, 40), radius: int = 6
) -> Source:
    """A bright disc through all slices; a dark one beside it is ignored."""
    _, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    rng = np.random.default_rng(0)
    truth = np.broadcast_to((y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2, shape).astype(np.uint8)
    ignored = np.broadcast_to((y - at[0]) ** 2 + (x - at[1] + 25) ** 2 <= 25, shape).copy()
    image = np.where(truth, 0.9, 0.1) + rng.normal(0, 0.02, shape)
    image[ignored] = -0.5
    return Source(image.astype(np.float32), truth, ignored, 2.5)


def test_a_batch_is_a_function_of_seed_step_and_rank(experiment: Experiment, sources: list[Source]) -> None:
    strong = Augmentation(contrast=0.3, blur_px=1.0, mirror=("row",), thick_slices=0.5, vanish=0.5)
    sampler, again = (Sampler(sources, experiment, strong) for _ in range(2))
    other_seed = Sampler(sources, changed(experiment, seed=2), strong)
    for step in (3, 0, 7):
        sampler.batch(step)  # what was drawn before plays no part
    one, same = sampler.batch(5, 1), again.batch(5, 1)
    for part in ("image", "truth", "counted"):
        assert torch.equal(getattr(one, part), getattr(same, part))
    others = (sampler.batch(6, 1), sampler.batch(5, 0), other_seed.batch(5, 1))
    assert not any(torch.equal(one.image, other.image) for other in others)


def test_windows_in_two_dimensions_have_a_channel_for_each_neighbour(
    experiment: Experiment, sources: list[Source]
) -> None:
    batch = Sampler(sources, experiment, Augmentation()).batch(0)
    assert batch.image.shape == (2, 3, 32, 32)
    assert batch.truth.shape == batch.counted.shape == (2, 32, 32)
    assert (batch.image.dtype, batch.truth.dtype, batch.counted.dtype) == (
        torch.float32,
        torch.int64,
        torch.bool,
    )
    assert batch.image.isfinite().all()


@pytest.mark.parametrize("size", [(4, 24, 24), (9, 64, 32)])
def test_windows_in_three_dimensions_have_one_channel_also_when_larger_than_the_image(
    experiment: Experiment, sources: list[Source], size: tuple[int, ...]
) -> None:
    batch = Sampler(sources, volumetric(experiment, window_size=size), Augmentation()).batch(0)
    assert batch.image.shape == (2, 1, *size)
    assert batch.truth.shape == (2, *size)


@pytest.mark.parametrize("outside", ["edge", "mirror"])
def test_a_window_that_is_larger_than_the_image_holds_all_of_it(experiment: Experiment, outside: Any) -> None:
    source = blob((1, 20, 24), (10, 12), 4)
    sampler = Sampler(
        [source],
        changed(experiment, window_size=(64, 64), lesion_share=0.0),
        Augmentation(**STILL, outside=outside),
    )
    window = sampler.window(np.random.default_rng(0))
    assert window["truth"].sum() >= source.truth.sum()
    if outside == "edge":
        assert window["truth"].sum() == source.truth.sum()
        middle = window["image"][1, 22:42, 20:44]
        torch.testing.assert_close(middle, torch.from_numpy(source.image[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("outside", ["edge", "mirror"])
@pytest.mark.parametrize("three", [False, True])
def test_every_window_shows_a_label_when_all_are_placed_around_one(
    experiment: Experiment, outside: Any, three: bool
) -> None:
    sources = [blob(at=at, radius=2) for at in ((2, 40), (20, 60), (57, 30))]
    if three:
        experiment = volumetric(experiment, lesion_share=1.0, window_size=(4, 32, 32))
    sampler = Sampler(sources, changed(experiment, lesion_share=1.0), Augmentation(outside=outside))
    rng = np.random.default_rng(0)
    assert all(sampler.window(rng)["truth"].any() for _ in range(80))
    nowhere = Sampler(sources, changed(experiment, lesion_share=0.0), Augmentation(outside=outside))
    shown = [bool(nowhere.window(rng)["truth"].any()) for _ in range(80)]
    assert 0 < sum(shown) < 70, "and otherwise they fall anywhere"


def test_windows_anywhere_lie_within_the_image_and_reach_each_of_its_borders(experiment: Experiment) -> None:
    source = blob((1, 50, 61))
    rows, columns = np.meshgrid(np.arange(50), np.arange(61), indexing="ij")
    where = Source((rows * 100 + columns)[None].astype(np.float32), source.truth, source.ignored, None)
    sampler = Sampler([where], changed(experiment, lesion_share=0.0), UNCHANGED)
    rng = np.random.default_rng(0)
    corners: Counter[tuple[int, int]] = Counter()
    for _ in range(400):
        image = sampler.window(rng)["image"][1]
        first, last = int(image[0, 0].round()), int(image[-1, -1].round())
        assert last - first == 31 * 100 + 31, "nothing is repeated"
        corners[divmod(first, 100)] += 1
    assert {corner[0] for corner in corners} >= {0, 50 - 32}
    assert {corner[1] for corner in corners} >= {0, 61 - 32}


@pytest.mark.parametrize("three", [False, True])
@pytest.mark.parametrize("outside", ["edge", "mirror"])
def test_truth_lies_on_what_is_bright_and_nothing_ignored_counts(
    experiment: Experiment, outside: Any, three: bool
) -> None:
    change = Augmentation(
        mirror=("slice", "row", "column"), quarter_turns=True, noise=0.02, shift=0.02, outside=outside
    )
    experiment = volumetric(experiment, window_size=(4, 32, 32)) if three else experiment
    sampler = Sampler([blob()], changed(experiment, batch_size=8, lesion_share=1.0), change)
    for step in range(3):
        batch = sampler.batch(step)
        middle = batch.image[:, batch.image.shape[1] // 2]
        bright, truth = middle > 0.5, batch.truth == 1
        assert 2 * (bright & truth).sum() / (bright.sum() + truth.sum()) > 0.9
        assert not batch.counted[middle < -0.35].any()
        assert (middle[~batch.counted] < 0.0).float().mean() > 0.85
        assert not batch.counted.all(), "some of it is ignored"


def test_what_lies_beyond_a_border_is_its_edge_or_the_mirrored_image() -> None:
    line = np.arange(4, dtype=np.float32)[None, None]
    assert cut_around(line, (0, 0), (1, 8), "edge")[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]
    assert cut_around(line, (0, 0), (1, 8), "mirror")[0, 0].tolist() == [3, 2, 1, 0, 0, 1, 2, 3]
    assert cut_around(line, (0, 3), (1, 3), "edge")[0, 0].tolist() == [2, 3, 3]
    both = cut_around(line, (0, 2), (1, 12), "mirror")[0, 0].tolist()
    assert both == [3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]


def test_inserted_lesions_are_labelled_bright_and_count(experiment: Experiment) -> None:
    plain = blob((3, 90, 90), (20, 60))
    source = Source(plain.image, plain.truth, np.zeros_like(plain.ignored), 2.5)
    source.image[plain.ignored] = 0.1
    donors = collect(views([source], experiment.preprocessing))
    assert len(donors) == 3
    everything = changed(experiment, window_size=(90, 90), batch_size=8)
    with_none, with_some = (
        Sampler([source], everything, Augmentation(**STILL, synthetic_lesions=share), donors)
        for share in (0.0, 1.0)
    )
    before, after = with_none.batch(0), with_some.batch(0)
    assert (before.truth.sum(dim=(1, 2)) == source.truth[0].sum()).all()
    more = (after.truth.sum(dim=(1, 2)) > source.truth[0].sum()).float().mean()
    assert more > 0.8
    assert after.counted.all()
    bright = after.image[:, 1] > 0.5
    assert 2 * (bright & (after.truth == 1)).sum() / (bright.sum() + after.truth.sum()) > 0.9
    assert np.array_equal(source.truth, blob((3, 90, 90), (20, 60)).truth), "the case itself stays"
