"""Only where the body is: its mask, its box on the model's grid, and answers that stay what they are.

Not covered: real patients, and networks that need windows, which are asked for everything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.selftest.bundles import write_bundle
from inference.body import body_mask
from inference.bundle import Preprocessing, Window, read_bundle
from inference.engine import Model, flipped
from inference.errors import UnsuitableVolume
from inference.predict import segment
from inference.preprocess import ModelInput, on_grid, prepare, restore
from inference.volume import Volume
from tests.inference.test_blocks import SHALLOW, built
from tests.phantoms.chest import BODY, TABLE_TOP_MM, Chest, chest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def thorax() -> Chest:
    return chest()


def small_ct(*boxes: tuple[slice, slice]) -> Volume:
    """Air of 3 slices of 100 x 120 mm with tissue in some places of each."""
    voxels = np.full((3, 100, 120), -1000, np.int16)
    for rows, columns in boxes:
        voxels[:, rows, columns] = 40
    return Volume(voxels, np.diag([5.0, 1.0, 1.0, 1.0]), "HU")


def test_the_body_is_found_with_the_lungs_in_it_and_the_air_beside_it_is_not(thorax: Chest) -> None:
    mask = body_mask(thorax.volume)
    assert mask[thorax.lungs].all()
    assert mask[thorax.lesion_map.values > 0].all()
    row_mm = thorax.volume.affine[1, 3] + thorax.volume.affine[1, 1] * np.arange(mask.shape[1])
    between = (row_mm > BODY.radii_mm[1] + 2) & (row_mm < TABLE_TOP_MM - 2)
    assert between.any()
    assert not mask[:, between].any()
    assert not mask[:, :, 0][:, row_mm < 0].any()


def test_an_arm_beside_the_body_belongs_to_it_and_a_wire_does_not() -> None:
    body, arm, wire = (
        (slice(20, 80), slice(10, 60)),
        (slice(40, 70), slice(75, 100)),
        (slice(2, 8), slice(110, 116)),
    )
    mask = body_mask(small_ct(body, arm, wire))
    assert mask[1][body].mean() > 0.99, "all but its corners"
    assert mask[1][arm].mean() > 0.9
    assert not mask[1][wire].any()


def test_nothing_but_air_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnsuitableVolume, match=r"no body found.*check RescaleIntercept"):
        body_mask(small_ct())
    with pytest.raises(UnsuitableVolume, match="needs Hounsfield units, not arbitrary"):
        body_mask(Volume(np.zeros((1, 9, 9), np.int16), np.eye(4), "arbitrary"))


@pytest.mark.parametrize("canonical", [False, True])
@pytest.mark.parametrize("spacing_mm", [(None, None, None), (7.0, 0.8, 2.5)])
def test_what_is_said_of_a_region_comes_from_its_box_on_the_models_grid(
    canonical: bool, spacing_mm: tuple[float | None, float | None, float | None]
) -> None:
    place = (slice(30, 70), slice(50, 61))
    volume = small_ct(place)
    turned = volume.affine @ np.diag([-1.0, -1.0, 1.0, 1.0])  # reversed slices and rows
    volume = Volume(volume.voxels, turned, "HU")
    how = Preprocessing(
        spatial_dims=3,
        spacing_mm=spacing_mm,
        intensity=Window(low=-1000.0, high=40.0),
        window_size=(4, 4, 4),
        canonical=canonical,
    )
    image = prepare(volume, how)
    box = on_grid(volume.voxels > 0, image)
    assert box is not None
    values = torch.rand(1, *image.image.shape)
    kept = torch.zeros_like(values)
    kept[:, *box] = values[:, *box]
    expected, found = restore(values, image)[0], restore(kept, image)[0]
    torch.testing.assert_close(found[:, *place], expected[:, *place])
    sizes = [part.stop - part.start for part in box]
    assert sizes[1] * sizes[2] < 0.5 * image.image[0].numel()


@pytest.mark.parametrize("mirrored", [(), ("row", "column")])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_answers_within_a_box_stay_what_they_are_and_less_is_computed(
    tmp_path: Path, spatial_dims: int, mirrored: tuple[str, ...]
) -> None:
    bundle = read_bundle(
        write_bundle(tmp_path, spatial_dims=spatial_dims, preprocessing={"mirrored": mirrored})
    )
    seen = 0

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = built(SHALLOW, spatial_dims)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += batch.numel()
            answer: torch.Tensor = self.network(batch)
            return answer

    model = Model(bundle, CPU, Counting())
    model.look()
    shape = (18, 150, 131)
    image = ModelInput(torch.randn(shape), (slice(0, 18), slice(0, 150), slice(0, 131)), shape)
    within = slice(3, 9), slice(90, 127), slice(5, 44)
    seen = 0
    everywhere, all_seen = model.probabilities(image), seen
    seen = 0
    inside, few_seen = model.probabilities(image, within), seen
    assert few_seen < 0.7 * all_seen
    torch.testing.assert_close(inside[:, *within], everywhere[:, *within], atol=1e-5, rtol=1e-5)
    outside = torch.ones(shape, dtype=torch.bool)
    outside[within] = False
    assert (inside[0][outside] == 1.0).all(), "background"
    assert (inside[1:, outside] == 0.0).all()


def test_a_model_that_declares_the_body_finds_what_it_found_everywhere(tmp_path: Path, thorax: Chest) -> None:
    found = {}
    for region in ("everywhere", "body"):
        bundle = write_bundle(
            tmp_path / region,
            spatial_dims=3,
            threshold=-200.0,
            preprocessing={
                "spacing_mm": [None, 3.0, 3.0],
                "intensity": {"kind": "window", "low": -1000.0, "high": 200.0},
            },
            postprocessing={"region": region},
        )
        found[region] = segment(thorax.volume, Model(read_bundle(bundle), CPU))
    assert len(found["body"].lesions) > 0
    np.testing.assert_array_equal(found["body"].values > 0, found["everywhere"].values > 0)


@pytest.mark.parametrize("axes", [[], [0], [1, 2], [0, 1, 2]])
def test_a_box_is_flipped_with_what_it_cuts_out(axes: list[int]) -> None:
    values = torch.arange(4 * 5 * 6).reshape(4, 5, 6)
    box = slice(0, 2), slice(1, 5), slice(2, 3)
    assert torch.equal(values.flip(axes)[flipped(box, axes, values.shape)], values[box].flip(axes))
