"""The lung mask on a phantom chest.

Not covered: trachea, bowel gas, effusions, noise of real chests.
"""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import UnsuitableVolume
from inference.lungs import lung_mask
from inference.volume import Volume
from tests.phantoms import sphere
from tests.phantoms.chest import Chest, chest


@pytest.fixture(scope="module")
def thorax() -> Chest:
    return chest()


def test_the_lungs_are_found_and_the_rest_of_the_body_is_not(thorax: Chest) -> None:
    mask = lung_mask(thorax.volume)
    assert mask.shape == thorax.volume.shape
    overlap = (
        2.0
        * np.count_nonzero(mask & thorax.lungs)
        / (np.count_nonzero(mask) + np.count_nonzero(thorax.lungs))
    )
    assert overlap > 0.95
    assert not mask[:, 0].any(), "air outside the body is no lung"


@pytest.mark.parametrize("number", [2, 3])
def test_a_nodule_within_the_lung_belongs_to_it(thorax: Chest, number: int) -> None:
    assert lung_mask(thorax.volume)[thorax.mask(number)].mean() > 0.95


@pytest.mark.parametrize("diameter_mm", [6.0, 10.0, 18.0])
def test_a_nodule_at_the_wall_stays_in(diameter_mm: float) -> None:
    """It grows from the outer border of the left lung (137 mm) inwards."""
    nodule = sphere((137.0 - diameter_mm / 2.0, -10.0, 0.0), diameter_mm)
    thorax = chest((4.0, 2.0, 2.0), (nodule,))
    assert lung_mask(thorax.volume)[thorax.mask(1)].mean() > 0.5, "else it would be dropped"


@pytest.mark.slow
def test_finer_pixels_give_the_same_lungs() -> None:
    fine = chest((10.0, 0.8, 0.8))
    mask = lung_mask(fine.volume)
    size_mm3 = np.count_nonzero(mask) * fine.volume.voxel_volume_mm3
    true_mm3 = np.count_nonzero(fine.lungs) * fine.volume.voxel_volume_mm3
    assert size_mm3 == pytest.approx(true_mm3, rel=0.06)


def test_an_abdomen_is_refused() -> None:
    with pytest.raises(UnsuitableVolume, match="needs a CT of the chest"):
        lung_mask(chest(with_lungs=False).volume)


def test_an_image_without_hounsfield_units_is_refused(thorax: Chest) -> None:
    mr = Volume(thorax.volume.voxels, thorax.volume.affine, "arbitrary")
    with pytest.raises(UnsuitableVolume, match="Hounsfield"):
        lung_mask(mr)


@pytest.mark.parametrize("value", [-1000, 40])
def test_only_air_or_only_tissue_is_refused(value: int) -> None:
    flat = Volume(np.full((10, 64, 64), value, np.int16), np.diag([5.0, 3.0, 3.0, 1.0]), "HU")
    with pytest.raises(UnsuitableVolume):
        lung_mask(flat)
