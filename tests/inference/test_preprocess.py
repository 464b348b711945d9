"""Network input: the model's grid, resampling and its inverse, normalisation, context slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from inference.bundle import Preprocessing, Window, ZScore
from inference.preprocess import (
    SLICES_AT_A_TIME,
    model_shape,
    normalise,
    prepare,
    resample,
    stack_context,
)
from inference.volume import Volume
from tests.phantoms import phantom


def how(*spacing_mm: float | None, intensity: Window | ZScore | None = None) -> Preprocessing:
    slice_mm, row_mm, column_mm = spacing_mm
    return Preprocessing(
        spatial_dims=3,
        spacing_mm=(slice_mm, row_mm, column_mm),
        intensity=intensity or ZScore(),
        window_size=(8, 8, 8),
    )


@pytest.mark.parametrize(
    ("target_mm", "shape"),
    [
        ((None, None, None), (10, 20, 30)),
        ((6.0, 1.0, 3.0), (5, 40, 15)),
        ((None, 4.0, None), (10, 10, 30)),
        ((100.0, 100.0, 100.0), (1, 1, 1)),
    ],
)
def test_the_models_grid_covers_the_same_field_of_view(
    target_mm: tuple[float | None, float | None, float | None], shape: tuple[int, int, int]
) -> None:
    volume = Volume(np.zeros((10, 20, 30), np.int16), np.diag([3.0, 2.0, 1.5, 1.0]), "HU")
    assert model_shape(volume, how(*target_mm), volume.shape) == shape


def test_without_geometry_only_known_spacing_is_used() -> None:
    pixels = np.zeros((1, 20, 30), np.int16)
    assert model_shape(Volume(pixels, None, "arbitrary", (0.5, 0.5)), how(5.0, 1.0, 1.0), pixels.shape) == (
        1,
        10,
        15,
    )
    assert model_shape(Volume(pixels, None, "arbitrary"), how(5.0, 1.0, 1.0), pixels.shape) == pixels.shape


@pytest.mark.parametrize("shape", [(8, 16, 16), (16, 9, 31), (24, 32, 40), (4, 40, 8)])
def test_a_smooth_image_survives_resampling_and_its_inverse_in_place(shape: tuple[int, int, int]) -> None:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 24, 32)), indexing="ij")
    image = torch.from_numpy(np.exp(-3 * ((z - 0.2) ** 2 + (y + 0.1) ** 2 + (x - 0.3) ** 2))).float()
    back = resample(resample(image, shape), (16, 24, 32))
    assert back.shape == image.shape
    for axis in range(3):
        places = torch.arange(image.shape[axis]).float()
        others = tuple(other for other in range(3) if other != axis)
        before, after = ((field.sum(others) * places).sum() / field.sum() for field in (image, back))
        assert float(before) == pytest.approx(float(after), abs=0.12), "the centre of mass stays"
    assert float((back - image).abs().mean()) < 0.03


def test_a_lesion_of_one_pixel_leaves_a_trace_on_a_coarser_grid() -> None:
    image = torch.zeros(1, 64, 64)
    image[0, 31, 33] = 1.0
    coarse = resample(image, (1, 16, 16))
    assert float(coarse.sum()) == pytest.approx(1.0 / 16.0)
    assert coarse[0, 7, 8] > 0


def test_the_same_grid_is_passed_through_unchanged() -> None:
    image = torch.randn(2, 3, 4, 5)
    assert resample(image, (3, 4, 5)) is image


@pytest.mark.parametrize("plane", [(9, 40), (20, 13), (11, 9)])
def test_slices_resampled_a_few_at_a_time_are_those_of_all_at_once(plane: tuple[int, int]) -> None:
    image = torch.randn(2, 2 * SLICES_AT_A_TIME + 3, 17, 23)
    coarser = [min(a, b) for a, b in zip((17, 23), plane, strict=True)]
    expected = functional.interpolate(image[None], (image.shape[1], *coarser), mode="area")
    expected = functional.interpolate(expected, (image.shape[1], *plane), mode="trilinear")[0]
    assert torch.equal(resample(image, (image.shape[1], *plane)), expected)
    assert torch.equal(resample(image[0], (image.shape[1], *plane)), expected[0])


def test_channels_are_resampled_each_for_itself() -> None:
    image = torch.stack([torch.zeros(4, 4, 4), torch.ones(4, 4, 4)])
    finer = resample(image, (8, 8, 8))
    assert finer.shape == (2, 8, 8, 8)
    assert float(finer[0].max()) == 0.0
    assert float(finer[1].min()) == 1.0


def test_a_window_maps_to_zero_and_one_and_clips() -> None:
    image = torch.tensor([-2000.0, -1000.0, -500.0, 0.0, 400.0])
    expected = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0])
    torch.testing.assert_close(normalise(image, Window(low=-1000.0, high=0.0)), expected)


def test_z_score_has_mean_zero_and_deviation_one() -> None:
    image = normalise(torch.randn(5, 6, 7) * 40 + 300, ZScore())
    assert float(image.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(image.std()) == pytest.approx(1.0, abs=1e-5)


def test_a_constant_image_has_no_z_score_but_stays_finite() -> None:
    assert torch.isfinite(normalise(torch.full((2, 3, 4), 7.0), ZScore())).all()


def test_context_slices_stand_beside_their_slice_and_repeat_at_the_ends() -> None:
    image = torch.arange(4.0)[:, None, None].expand(4, 2, 2)
    stacked = stack_context(image, 2)
    assert stacked.shape == (4, 5, 2, 2)
    assert stacked[:, :, 0, 0].tolist() == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 3],
        [1, 2, 3, 3, 3],
    ]


def test_prepare_crops_before_it_resamples() -> None:
    volume = phantom(spacing_mm=(3.0, 1.0, 1.5)).volume
    box = (slice(2, 12), slice(10, 50), slice(4, 24))
    image = prepare(volume, how(6.0, 2.0, 1.5, intensity=Window(low=0.0, high=200.0)), box)
    assert image.image.shape == (5, 20, 20)
    assert image.image.dtype == torch.float32
    assert (image.box, image.source_shape) == (box, volume.shape)
    expected = volume.voxels[box].reshape(5, 2, 20, 2, 20).mean(axis=(1, 3)) / 200.0
    np.testing.assert_allclose(image.image.numpy(), expected, atol=1e-6)
