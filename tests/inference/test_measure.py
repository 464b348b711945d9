"""Measurements against formulas, brute force and SimpleITK.

Diameters run between voxel centres, so a digital solid measures up to one voxel less than the real one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813 - its own manual calls it so
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import pdist

from inference.diameters import hull_corners, longest_line, run_ends
from inference.labelmap import layered
from inference.measure import (
    Absent,
    Axis,
    LesionMeasurement,
    Quantity,
    measure_lesions,
    total_burden,
    total_volume,
)
from inference.volume import Clip, Volume
from tests.phantoms import (
    DEFAULT_LESIONS,
    ORIENTATIONS,
    Box,
    Ellipsoid,
    Orientation,
    Phantom,
    lesion_map_of,
    phantom,
    sphere,
)

Mask = npt.NDArray[np.bool_]

STAIRCASE = 1.13
"""A mesh around voxels follows their stairs: IBSI's surface of a ball is about a tenth too large."""


def measured(found: Phantom) -> tuple[LesionMeasurement, ...]:
    return measure_lesions(found.lesion_map, found.volume)


def measure_mask(mask: npt.ArrayLike, affine: npt.NDArray[np.float64] | None = None) -> LesionMeasurement:
    """The one lesion of `mask` in a volume with the values 0, 1, 2, ... of its voxels."""
    lesion = np.asarray(mask, np.uint16)
    voxels = np.arange(lesion.size, dtype=np.float32).reshape(lesion.shape)
    volume = Volume(voxels, np.diag([3.0, 2.0, 1.0, 1.0]) if affine is None else affine, "arbitrary")
    (measurement,) = measure_lesions(lesion_map_of(lesion), volume)
    return measurement


def value(found: Quantity | Absent, unit: str = "mm") -> float:
    assert isinstance(found, Quantity)
    assert found.unit == unit
    return found.value


def length(found: Axis | Absent) -> float:
    assert isinstance(found, Axis)
    return value(found.length)


def ends_mm(axis: Axis | Absent, spacing_mm: tuple[float, float]) -> npt.NDArray[np.float64]:
    assert isinstance(axis, Axis)
    return np.array([axis.start, axis.end]) * spacing_mm


class TestSolids:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("tilt_degrees", [0.0, 20.0])
    def test_size_and_place_in_the_patient_do_not_depend_on_the_scan(
        self, orientation: Orientation, tilt_degrees: float
    ) -> None:
        found = phantom(orientation, (1.5, 0.75, 1.0), tilt_degrees=tilt_degrees, shapes=DEFAULT_LESIONS[:2])
        for measurement, shape in zip(measured(found), found.shapes, strict=True):
            assert value(measurement.volume, "mm3") == pytest.approx(shape.volume_mm3, rel=0.02)
            assert measurement.centroid_lps_mm == pytest.approx(shape.centre_lps_mm, abs=0.2)
            assert value(measurement.largest_diameter) == pytest.approx(shape.longest_diameter_mm, abs=2.0)
            assert not measurement.truncated

    def test_sphere(self) -> None:
        found = phantom(spacing_mm=(1.0, 0.5, 0.75), shapes=[sphere((12.0, -20.0, 35.0), 24.0)])
        (measurement,) = measured(found)
        assert value(measurement.volume, "mm3") == pytest.approx(found.shapes[0].volume_mm3, rel=0.01)
        assert 1.0 < value(measurement.surface, "mm2") / found.shapes[0].surface_mm2 < STAIRCASE
        assert value(measurement.largest_diameter) == pytest.approx(24.0, abs=0.8)
        assert length(measurement.long_axis) == pytest.approx(24.0, abs=0.8)
        assert length(measurement.short_axis) == pytest.approx(24.0, abs=1.0)

    def test_ellipsoid_has_its_own_axes_in_the_acquisition_plane(self) -> None:
        found = phantom(
            spacing_mm=(1.0, 0.5, 0.5), shapes=[Ellipsoid((12.0, -20.0, 35.0), (15.0, 7.0, 20.0))]
        )
        (measurement,) = measured(found)
        assert length(measurement.long_axis) == pytest.approx(30.0, abs=0.6)
        assert length(measurement.short_axis) == pytest.approx(14.0, abs=0.6)
        assert value(measurement.largest_diameter) == pytest.approx(40.0, abs=1.0)
        assert 1.0 < value(measurement.surface, "mm2") / found.shapes[0].surface_mm2 < STAIRCASE
        ends = ends_mm(measurement.long_axis, (0.5, 0.5))
        assert abs(ends[1] - ends[0])[1] == pytest.approx(30.0, abs=0.6), "it runs from left to right"

    def test_box(self) -> None:
        found = phantom(spacing_mm=(2.0, 1.0, 1.0), shapes=[Box((12.0, -20.0, 35.0), (20.0, 10.0, 16.0))])
        (measurement,) = measured(found)
        assert value(measurement.volume, "mm3") == pytest.approx(3200.0)
        assert length(measurement.long_axis) == pytest.approx(np.hypot(19.0, 9.0))
        assert value(measurement.largest_diameter) == pytest.approx(np.linalg.norm([19.0, 9.0, 14.0]))
        assert value(measurement.surface, "mm2") == pytest.approx(found.shapes[0].surface_mm2, rel=0.08)

    def test_total_volume_is_the_sum(self) -> None:
        found = phantom()
        total = total_volume(measured(found))
        mm3 = np.count_nonzero(found.lesion_map.values) * found.volume.voxel_volume_mm3
        assert value(total, "mm3") == pytest.approx(mm3)
        assert value(total_volume(()), "mm3") == 0.0

    def test_sheared_grid_has_its_true_volume_and_diameter(self) -> None:
        affine = np.eye(4)
        affine[:3, 0] = [4.0, 3.0, 0.0]  # a step of 5 mm that leans by 37 degrees
        mask = np.zeros((3, 4, 4))
        mask[0:2, 1, 1] = 1
        measurement = measure_mask(mask, affine)
        assert value(measurement.volume, "mm3") == pytest.approx(8.0)
        assert value(measurement.largest_diameter) == pytest.approx(5.0)

    def test_intensities_are_those_of_the_lesion_only(self) -> None:
        found = phantom()
        for number, measurement in enumerate(measured(found), start=1):
            values = found.volume.voxels[found.mask(number)].astype(float)
            unit = "[hnsf'U]"
            assert value(measurement.mean, unit) == pytest.approx(values.mean())
            assert value(measurement.standard_deviation, unit) == pytest.approx(values.std(ddof=1))
            assert (value(measurement.minimum, unit), value(measurement.maximum, unit)) == (
                values.min(),
                values.max(),
            )


class TestDegenerateLesions:
    def test_one_voxel_has_a_volume_and_no_diameter(self) -> None:
        mask = np.zeros((3, 4, 5))
        mask[1, 2, 3] = 1
        measurement = measure_mask(mask)
        assert value(measurement.volume, "mm3") == pytest.approx(6.0)
        assert measurement.long_axis == Absent("the lesion is one pixel wide in every slice")
        assert isinstance(measurement.short_axis, Absent)
        assert isinstance(measurement.largest_diameter, Absent)
        assert isinstance(measurement.standard_deviation, Absent)
        assert measurement.centroid_lps_mm == pytest.approx((3.0, 4.0, 3.0))
        assert (measurement.key_slice, measurement.first_slice, measurement.last_slice) == (1, 1, 1)

    def test_a_column_of_voxels_across_slices_has_only_a_3d_diameter(self) -> None:
        mask = np.zeros((5, 4, 4))
        mask[1:4, 2, 2] = 1
        measurement = measure_mask(mask)
        assert isinstance(measurement.long_axis, Absent)
        assert value(measurement.largest_diameter) == pytest.approx(6.0)

    @pytest.mark.parametrize("diagonal", [True, False])
    def test_a_line_has_a_long_axis_and_no_short_one(self, diagonal: bool) -> None:
        mask = np.zeros((3, 8, 8))
        for i in range(1, 6):
            mask[1, i if diagonal else 3, i] = 1
        measurement = measure_mask(mask)
        assert length(measurement.long_axis) == pytest.approx(4.0 * np.hypot(2.0, 1.0) if diagonal else 4.0)
        assert isinstance(measurement.short_axis, Absent)

    def test_a_flat_lesion_has_both_axes_and_a_3d_diameter(self) -> None:
        mask = np.zeros((3, 8, 8))
        mask[1, 2:5, 1:7] = 1
        measurement = measure_mask(mask)
        assert value(measurement.largest_diameter) == pytest.approx(length(measurement.long_axis))
        assert isinstance(measurement.short_axis, Axis)

    def test_an_l_shape_is_measured_between_its_ends(self) -> None:
        mask = np.zeros((1, 12, 12))
        mask[0, 1:11, 1:3] = 1
        mask[0, 9:11, 1:11] = 1
        measurement = measure_mask(mask, np.eye(4))
        assert length(measurement.long_axis) == pytest.approx(np.hypot(9.0, 9.0))

    def test_the_short_axis_of_a_dented_lesion_ends_at_its_border_not_across_the_dent(self) -> None:
        """An L whose legs are 3 pixels wide: from its outer corner to the middle of the diagonal step between
        (7, 3) and (8, 4); the line across its convex hull would be 6.4 pixels long.
        """
        mask = np.zeros((1, 12, 12))
        mask[0, 1:11, 1:4] = 1
        mask[0, 8:11, 1:11] = 1
        measurement = measure_mask(mask, np.eye(4))
        ends = ends_mm(measurement.short_axis, (1.0, 1.0))
        to_centres = np.linalg.norm(ends[:, None] - np.argwhere(mask[0]), axis=2).min(axis=1)
        assert np.all(to_centres <= 0.5**0.5 + 1e-9)
        assert length(measurement.short_axis) == pytest.approx(2.5 * 2**0.5)

    def test_a_single_slice_of_unknown_thickness_has_no_volume_and_no_surface(self) -> None:
        mask = np.zeros((1, 5, 5), np.uint16)
        mask[0, 1:3, 1:4] = 1
        volume = Volume(np.ones((1, 5, 5), np.int16), np.eye(4), "HU", thickness_known=False)
        both = layered([lesion_map_of(mask), lesion_map_of(mask)])
        found = measure_lesions(both, volume)
        unknown = Absent("the thickness of the only slice is not known")
        assert found[0].volume == found[0].surface == total_burden(both, found, volume) == unknown
        assert value(found[0].area, "mm2") == 6.0
        assert value(found[0].largest_diameter) == pytest.approx(np.hypot(1.0, 2.0))


class TestBorders:
    @pytest.mark.parametrize("index", [(0, 2, 2), (4, 2, 2), (2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 4)])
    def test_a_lesion_at_any_border_is_truncated(self, index: tuple[int, int, int]) -> None:
        mask = np.zeros((5, 5, 5))
        mask[index] = 1
        assert measure_mask(mask).truncated

    def test_a_lesion_one_voxel_inside_is_not(self) -> None:
        mask = np.zeros((5, 5, 5))
        mask[1:4, 1:4, 1:4] = 1
        assert not measure_mask(mask).truncated

    def test_a_single_slice_cuts_no_lesion_across_its_plane(self) -> None:
        mask = np.zeros((1, 5, 5))
        mask[0, 2, 2] = 1
        assert not measure_mask(mask).truncated


class TestWithoutGeometry:
    @pytest.mark.parametrize(("spacing", "unit", "scale"), [(None, "{pixels}", 1.0), ((0.5, 0.5), "mm", 0.5)])
    def test_distances_in_the_image_only(
        self, spacing: tuple[float, float] | None, unit: str, scale: float
    ) -> None:
        lesion = np.zeros((1, 10, 10), np.uint16)
        lesion[0, 2, 2:8] = lesion[0, 3, 2:8] = 1
        volume = Volume(np.ones((1, 10, 10), np.float32), None, "arbitrary", spacing)
        (measurement,) = measure_lesions(lesion_map_of(lesion), volume)
        assert isinstance(measurement.long_axis, Axis)
        assert value(measurement.long_axis.length, unit) == pytest.approx(np.hypot(5.0, 1.0) * scale)
        assert isinstance(measurement.volume, Absent)
        assert isinstance(measurement.largest_diameter, Absent)
        assert isinstance(measurement.surface, Absent)
        assert isinstance(measurement.centroid_lps_mm, Absent)
        assert isinstance(total_volume((measurement,)), Absent)

    def loop(self, *spacings: tuple[float, float] | None) -> tuple[LesionMeasurement, ...]:
        """A bar in each of two images of 10 x 10, 4 and 6 pixels wide and 2 high."""
        numbers = np.zeros((2, 10, 10), np.uint16)
        numbers[0, 2:4, 2:6] = 1
        numbers[1, 2:4, 2:8] = 1 if len(spacings) == 1 else 2
        clips = tuple(Clip(index, spacing) for index, spacing in enumerate(spacings))
        return measure_lesions(
            lesion_map_of(numbers), Volume(np.ones((2, 10, 10), np.int16), None, "grey", clips=clips)
        )

    def test_a_lesion_in_a_loop_is_measured_in_the_frame_where_it_is_longest(self) -> None:
        (measurement,) = self.loop((0.5, 0.25))
        assert (measurement.key_slice, measurement.first_slice, measurement.last_slice) == (1, 0, 1)
        assert length(measurement.long_axis) == pytest.approx(np.hypot(0.5, 5 * 0.25))
        assert value(measurement.area, "mm2") == pytest.approx(12 * 0.5 * 0.25)

    def test_pieces_that_meet_only_at_another_time_are_not_measured_as_one(self) -> None:
        numbers = np.zeros((2, 10, 20), np.uint16)
        numbers[0, 2, 6:11] = 1
        numbers[1, 2, 2:8] = numbers[1, 2, 10:12] = 1
        volume = Volume(np.ones((2, 10, 20), np.int16), None, "grey")
        (measurement,) = measure_lesions(lesion_map_of(numbers), volume)
        assert measure_mask(numbers).pieces == 2, "where they are measured as one"
        assert measurement.pieces == 1
        assert value(measurement.area, "{pixels}") == 8
        assert isinstance(measurement.long_axis, Axis)
        assert value(measurement.long_axis.length, "{pixels}") == 5, "not 9, over the gap"

    def test_each_image_has_its_own_spacing(self) -> None:
        first, second = self.loop((0.5, 0.5), None)
        assert value(first.area, "mm2") == pytest.approx(8 * 0.25)
        assert value(second.area, "{pixels}") == 12
        assert isinstance(second.long_axis, Axis)
        assert value(second.long_axis.length, "{pixels}") == pytest.approx(np.hypot(1, 5))

    def test_grey_values_for_display_are_not_measured(self) -> None:
        (measurement,) = self.loop(None)
        for found in (measurement.mean, measurement.standard_deviation, measurement.minimum):
            assert found == Absent("grey values for display measure nothing")

    def test_the_first_and_the_last_frame_of_a_loop_cut_nothing(self) -> None:
        assert not self.loop(None)[0].truncated

    def test_the_total_volume_is_absent_for_the_reason_of_the_lesions(self) -> None:
        assert total_volume(self.loop(None)) == Absent("the images have no place in the patient")


def test_a_lesion_map_of_another_grid_is_refused() -> None:
    found = phantom()
    with pytest.raises(ValueError, match="not on the volume's grid"):
        measure_lesions(lesion_map_of(np.ones((1, 2, 3), np.uint16)), found.volume)


def random_blob(seed: int, shape: tuple[int, ...]) -> Mask:
    """The largest component of smoothed noise: crooked, with holes and dents."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    labels, _ = ndimage.label(noise > np.percentile(noise, 70))
    blob: Mask = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return blob


@pytest.mark.parametrize("seed", range(12))
def test_largest_diameter_of_a_random_blob_is_that_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_blob(seed, (8, 14, 12))
    to_mm = rng.normal(size=(3, 3)) + 2.0 * np.eye(3)
    line = longest_line(hull_corners(run_ends(mask) @ to_mm.T))
    assert line is not None
    assert np.linalg.norm(line[1] - line[0]) == pytest.approx(pdist(np.argwhere(mask) @ to_mm.T).max())


@pytest.mark.parametrize("seed", range(12))
def test_the_long_axis_of_a_random_blob_is_that_of_all_pairs(seed: int) -> None:
    mask = random_blob(seed + 100, (24, 20))
    spacing = np.random.default_rng(seed).uniform(0.4, 2.0, 2)
    points = np.argwhere(mask) * spacing
    corners = hull_corners(run_ends(mask) * spacing)
    line = longest_line(corners)
    assert line is not None
    assert np.linalg.norm(line[1] - line[0]) == pytest.approx(pdist(points).max())


@pytest.mark.parametrize("seed", range(4))
def test_simpleitk_finds_the_same_feret_diameter_volume_and_centroid(seed: int) -> None:
    mask = random_blob(seed + 50, (10, 16, 14))
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.eye(3)) * np.array([2.5, 0.8, 0.6])
    affine[:3, 3] = [10.0, -20.0, 30.0]
    measurement = measure_mask(mask, affine)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing((0.6, 0.8, 2.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    judge = sitk.LabelShapeStatisticsImageFilter()
    judge.ComputeFeretDiameterOn()
    judge.Execute(image)
    assert value(measurement.volume, "mm3") == pytest.approx(judge.GetPhysicalSize(1))
    assert measurement.centroid_lps_mm == pytest.approx(judge.GetCentroid(1))
    assert value(measurement.largest_diameter) == pytest.approx(judge.GetFeretDiameter(1))


@settings(max_examples=80, deadline=None)
@given(mask=arrays(np.bool_, st.tuples(*[st.integers(1, 6)] * 3)), row_mm=st.sampled_from([0.5, 1.0, 1.7]))
def test_axes_and_diameters_of_any_mask_are_those_of_all_pairs(mask: Mask, row_mm: float) -> None:
    if not mask.any():
        return
    whole = np.zeros(mask.shape, np.bool_)
    box = ndimage.find_objects(mask.astype(int))[0]
    whole[box] = mask[box]
    spacing = np.array([3.0, row_mm, 1.0])
    measurement = measure_mask(whole, np.diag([*spacing, 1.0]))
    pairs = [pdist(np.argwhere(plane) * spacing[1:]).max(initial=0.0) for plane in whole]
    longest = max(pairs)
    if longest == 0.0:
        assert isinstance(measurement.long_axis, Absent)
    else:
        assert length(measurement.long_axis) == pytest.approx(longest)
        assert measurement.key_slice == next(i for i, pair in enumerate(pairs) if pair > longest - 1e-6)
    if np.count_nonzero(whole) > 1:
        expected = pdist(np.argwhere(whole) * spacing).max()
        assert value(measurement.largest_diameter) == pytest.approx(expected)
