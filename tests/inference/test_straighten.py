"""Uneven and tilted series: upright for the network, native for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from dicomnode.selftest.bundles import write_bundle
from inference.bundle import read_bundle
from inference.engine import Model
from inference.measure import Quantity, measure_lesions
from inference.predict import segment
from inference.straighten import Straightening, straightening
from inference.volume import Box, Volume
from tests.phantoms import Phantom, phantom

SPACING_MM = (3.0, 1.0, 1.5)
MISSING = (9, 14, 15)


def whole(volume: Volume) -> Box:
    slices, rows, columns = volume.shape
    return slice(0, slices), slice(0, rows), slice(0, columns)


def needed(volume: Volume) -> Straightening:
    found = straightening(volume, whole(volume))
    assert found is not None
    return found


def lower_left(volume: Volume, how: Straightening) -> np.ndarray:
    """Where the upright grid begins in the patient (LPS mm)."""
    rows, columns = min(how.row_shifts), min(how.column_shifts)
    assert (rows, columns) == (0.0, 0.0)
    first = volume.to_lps_mm((0, 0, 0))
    return np.asarray(
        first - how.row_shifts[0] * volume.affine[:3, 1] - how.column_shifts[0] * volume.affine[:3, 2]
    )


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_an_even_upright_series_stays_as_it_is(orientation: str) -> None:
    volume = phantom(orientation, SPACING_MM).volume  # type: ignore[arg-type]
    assert straightening(volume, whole(volume)) is None


@pytest.mark.parametrize("reversed_slices", [False, True])
@pytest.mark.parametrize(("tilt_degrees", "missing"), [(0.0, MISSING), (15.0, ()), (-20.0, MISSING)])
def test_the_upright_grid_shows_the_patient_at_the_same_places(
    tilt_degrees: float, missing: tuple[int, ...], reversed_slices: bool
) -> None:
    """Along the field value = l + 2 p + 3 s (LPS mm), interpolation makes no error."""
    made = phantom(
        "oblique",
        SPACING_MM,
        tilt_degrees=tilt_degrees,
        missing_slices=missing,
        reversed_slices=reversed_slices,
    ).volume
    grid = np.stack(np.meshgrid(*map(np.arange, made.shape), indexing="ij"), axis=-1)
    field = torch.from_numpy((made.to_lps_mm(grid) @ [1.0, 2.0, 3.0]).astype(np.float32))
    how = needed(made)
    upright = how.apply(field)
    assert tuple(upright.shape) == how.upright_shape

    row, column = made.affine[:3, 1], made.affine[:3, 2]
    normal = np.cross(row, column)
    normal *= how.step_mm / np.linalg.norm(normal) * np.sign(made.affine[:3, 0] @ normal)
    grid = np.stack(np.meshgrid(*map(np.arange, how.upright_shape), indexing="ij"), axis=-1)
    places = lower_left(made, how) + grid @ np.stack([normal, row, column])
    expected = places @ [1.0, 2.0, 3.0]
    shown = torch.ones(made.shape)
    shown[0, 0, 0] = 0.0  # what fills the grid beside the images
    inside = how.apply(shown).numpy() == 1.0
    inside = ndimage.binary_erosion(inside, np.ones((1, 3, 3)), border_value=0)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(upright.numpy()[inside], expected[inside], atol=0.01)


def test_what_goes_there_and_back_stays_where_it_was() -> None:
    made = phantom("axial", SPACING_MM, tilt_degrees=12.0, missing_slices=MISSING)
    truth = torch.from_numpy((made.lesion_map.values > 0).astype(np.float32))
    how = needed(made.volume)
    back = how.undo(how.apply(truth)[None])[0]
    assert back.shape == truth.shape
    agreement = 2 * ((back >= 0.5) & (truth > 0)).sum() / ((back >= 0.5).sum() + (truth > 0).sum())
    assert agreement > 0.97


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("tilt_degrees", "missing"), [(0.0, MISSING), (15.0, ()), (15.0, MISSING)])
def test_lesions_of_an_uneven_or_tilted_series_are_found_on_its_own_slices(
    tmp_path: Path, spatial_dims: int, tilt_degrees: float, missing: tuple[int, ...]
) -> None:
    made = phantom("axial", (2.0, 1.0, 1.5), tilt_degrees=tilt_degrees, missing_slices=missing)
    bundle = read_bundle(write_bundle(tmp_path / "threshold", spatial_dims=spatial_dims))
    found = segment(made.volume, Model(bundle, torch.device("cpu")))
    assert len(found.lesions) == len(made.shapes)
    for number in range(1, len(made.shapes) + 1):
        truth, mask = made.mask(number), found.values == number
        assert 2 * (truth & mask).sum() / (truth.sum() + mask.sum()) > 0.9
    if spatial_dims == 2:  # each slice alone: nothing is interpolated
        np.testing.assert_array_equal(found.values, made.lesion_map.values)


def test_measurements_of_an_uneven_series_are_those_of_the_solid() -> None:
    """An ellipsoid of 15 x 10 x 8 mm half axes, of whose 2 mm slices two are missing."""
    even, uneven = (
        phantom("axial", (2.0, 1.0, 1.0)),
        phantom("axial", (2.0, 1.0, 1.0), missing_slices=(24, 27)),
    )
    exact_mm3 = 4 / 3 * np.pi * 15 * 10 * 8
    whole_lesion, holed = (measure_lesions(made.lesion_map, made.volume)[0] for made in (even, uneven))
    assert holed.voxel_count < whole_lesion.voxel_count
    for measured in (whole_lesion, holed):
        assert quantity(measured.volume) == pytest.approx(exact_mm3, rel=0.05)
    assert quantity(holed.largest_diameter) == pytest.approx(
        quantity(whole_lesion.largest_diameter), rel=0.02
    )
    assert quantity(holed.surface) == pytest.approx(quantity(whole_lesion.surface), rel=0.05)
    assert holed.centroid_lps_mm == pytest.approx(centre(even), abs=0.5)


def test_slice_places_must_fit_the_slices() -> None:
    voxels = np.zeros((3, 4, 4), np.int16)
    for places in ((0.0, 1.0), (0.0, 2.0, 1.0), (1.0, 2.0, 3.0)):
        with pytest.raises(ValueError, match="place"):
            Volume(voxels, np.eye(4), "HU", slice_places=places)
    with pytest.raises(ValueError, match="no distances"):
        Volume(voxels, None, "HU", slice_places=(0.0, 1.0, 2.0))


def quantity(found: object) -> float:
    assert isinstance(found, Quantity)
    return found.value


def centre(made: Phantom) -> tuple[float, ...]:
    return tuple(made.volume.to_lps_mm(np.argwhere(made.mask(1)).mean(axis=0)))
