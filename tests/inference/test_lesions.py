"""From probabilities to lesions: numbering, what is dropped, and places after resampling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from inference.bundle import Postprocessing, Preprocessing, Window
from inference.labelmap import Label, LabelMap, LesionMap
from inference.lesions import find_lesions, to_label_map
from inference.measure import measure_lesions
from inference.preprocess import ModelInput, prepare, restore
from inference.volume import Clip, Volume
from tests.phantoms import LESION_LABEL, ORIENTATIONS, Orientation, phantom, sphere

ORGAN = LESION_LABEL.model_copy(update={"number": 2, "name": "Organ", "kind": "organ"})


Values = npt.NDArray[np.unsignedinteger]


def volume_of(values: Values, spacing_mm: float = 1.0) -> Volume:
    return Volume(np.zeros(values.shape, np.int16), np.diag([spacing_mm] * 3 + [1.0]), "HU")


def three_blobs() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Lesions of 2, 12 and 4 voxels, in the order in which they are met."""
    values = np.zeros((4, 10, 10), np.uint8)
    values[0, 0, 0:2] = 1
    values[1:3, 4:7, 4:6] = 1
    values[3, 0, 6:10] = 1
    return values


def sizes(found: LesionMap) -> list[int]:
    return [int(np.count_nonzero(found.values == lesion.number)) for lesion in found.lesions]


def test_lesions_are_numbered_from_the_largest_to_the_smallest() -> None:
    values = three_blobs()
    found = find_lesions(LabelMap(values, (LESION_LABEL,)), volume_of(values), Postprocessing())
    assert sizes(found) == [12, 4, 2]
    np.testing.assert_array_equal(found.values > 0, values > 0)
    for lesion in found.lesions:
        assert np.count_nonzero(found.mask(lesion)) == sizes(found)[lesion.number - 1]


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    values = np.zeros((3, 3, 3), np.uint8)
    values[0, 0, 0] = values[1, 1, 1] = values[2, 2, 2] = 1
    assert sizes(find_lesions(LabelMap(values, (LESION_LABEL,)), volume_of(values), Postprocessing())) == [3]


def test_an_organ_stays_one_piece_and_is_never_dropped() -> None:
    values = three_blobs()
    values[values == 1] = 2
    values[0, 9, 9] = 1
    how = Postprocessing(smallest_lesion_mm3=3.0, peak_probability=0.9)
    region = np.zeros(values.shape, np.bool_)
    certainty = np.full(values.shape, 0.6, np.float32)
    label_map = LabelMap(values, (LESION_LABEL, ORGAN))
    found = find_lesions(label_map, volume_of(values), how, region, certainty)
    assert [lesion.label.kind for lesion in found.lesions] == ["organ"]
    assert sizes(found) == [18]


def test_every_label_is_numbered_on_from_the_one_before() -> None:
    values = three_blobs()
    values[3] *= 2
    label_map = LabelMap(values, (LESION_LABEL, ORGAN))
    found = find_lesions(label_map, volume_of(values), Postprocessing())
    assert [(lesion.number, lesion.label.number) for lesion in found.lesions] == [(1, 1), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    ("smallest_mm3", "left"), [(0.0, [12, 4, 2]), (31.0, [12, 4]), (33.0, [12]), (1e6, [])]
)
def test_lesions_below_the_smallest_size_in_mm3_are_dropped(smallest_mm3: float, left: list[int]) -> None:
    values = three_blobs()
    how = Postprocessing(smallest_lesion_mm3=smallest_mm3)
    assert sizes(find_lesions(LabelMap(values, (LESION_LABEL,)), volume_of(values, 2.0), how)) == left


def test_a_lesion_mostly_outside_the_region_is_dropped_whole() -> None:
    values = three_blobs()
    region = np.zeros(values.shape, np.bool_)
    region[1, 4:7, 4:6] = True  # half of the largest
    region[3, 0, 6] = True  # a quarter of the next
    found = find_lesions(LabelMap(values, (LESION_LABEL,)), volume_of(values), Postprocessing(), region)
    assert sizes(found) == [12]


def test_a_lesion_that_is_nowhere_certain_is_dropped() -> None:
    values = three_blobs()
    certainty = np.full(values.shape, 0.6, np.float32)
    certainty[3, 0, 7] = 0.95
    how = Postprocessing(peak_probability=0.9)
    found = find_lesions(LabelMap(values, (LESION_LABEL,)), volume_of(values), how, certainty=certainty)
    assert sizes(found) == [4]


def test_nothing_found_is_an_empty_map() -> None:
    values = np.zeros((2, 3, 4), np.uint8)
    found = find_lesions(LabelMap(values, (LESION_LABEL,)), volume_of(values), Postprocessing())
    assert found.lesions == ()
    assert found.values.shape == (2, 3, 4)


class TestWithoutAPlaceInThePatient:
    def values(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Four images of 10 x 10: one lesion that moves through all, of 4 pixels and of 9 in image 2."""
        values = np.zeros((4, 10, 10), np.uint8)
        for index in range(4):
            values[index, 2:4, 1 + index : 3 + index] = 1
        values[2, 2:5, 3:6] = 1
        return values

    def found(self, clips: tuple[Clip, ...] = (), **how: float) -> LesionMap:
        values = self.values()
        volume = Volume(np.zeros(values.shape, np.int16), None, "grey", clips=clips)
        return find_lesions(LabelMap(values, (LESION_LABEL,)), volume, Postprocessing.model_validate(how))

    def test_a_lesion_is_followed_through_the_frames_of_a_loop(self) -> None:
        assert sizes(self.found()) == [21]

    def test_no_lesion_reaches_into_another_image(self) -> None:
        clips = tuple(Clip(index, None) for index in range(4))
        assert sizes(self.found(clips)) == [9, 4, 4, 4]
        assert sizes(self.found((Clip(0, None), Clip(2, None)))) == [13, 8]

    def test_an_organ_is_one_piece_in_each_image(self) -> None:
        values = self.values()
        values[0, 9, 9] = 1
        organ = ORGAN.model_copy(update={"number": 1})
        clips = (Clip(0, None), Clip(2, None))
        volume = Volume(np.zeros(values.shape, np.int16), None, "grey", clips=clips)
        found = find_lesions(LabelMap(values, (organ,)), volume, Postprocessing())
        assert sizes(found) == [13, 9]

    @pytest.mark.parametrize(
        ("share", "left"), [(0.04, [9, 4, 4, 4]), (0.041, [9]), (0.09, [9]), (0.091, [])]
    )
    def test_lesions_below_the_smallest_share_of_an_image_are_dropped(
        self, share: float, left: list[int]
    ) -> None:
        clips = tuple(Clip(index, None) for index in range(4))
        assert sizes(self.found(clips, smallest_lesion_share=share)) == left

    def test_in_a_loop_the_largest_image_of_a_lesion_counts(self) -> None:
        assert sizes(self.found(smallest_lesion_share=0.09)) == [21]
        assert sizes(self.found(smallest_lesion_share=0.091)) == []

    def test_cubic_millimetres_do_not_count(self) -> None:
        assert sizes(self.found(smallest_lesion_mm3=1e6)) == [21]

    def test_shares_of_an_image_do_not_count_in_space(self) -> None:
        values = self.values()
        found = find_lesions(
            LabelMap(values, (LESION_LABEL,)), volume_of(values), Postprocessing(smallest_lesion_share=0.5)
        )
        assert sizes(found) == [21]


class TestDecision:
    image = ModelInput(torch.zeros(1, 1, 1), (slice(0, 1), slice(0, 1), slice(0, 1)), (1, 1, 1))
    two = Label.model_validate(LESION_LABEL.model_dump() | {"number": 2, "name": "Other"})

    @pytest.mark.parametrize(
        ("probabilities", "number"),
        [((0.6, 0.3, 0.1), 0), ((0.4, 0.35, 0.25), 1), ((0.1, 0.2, 0.7), 2), ((0.5, 0.5, 0.0), 1)],
    )
    def test_all_labels_together_reach_the_threshold_and_the_likeliest_wins(
        self, probabilities: tuple[float, float, float], number: int
    ) -> None:
        field = torch.tensor(probabilities).reshape(3, 1, 1, 1)
        label_map, certainty = to_label_map(field, self.image, (LESION_LABEL, self.two), Postprocessing())
        assert label_map.values.item() == number
        assert certainty.item() == pytest.approx(1.0 - probabilities[0])

    @pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 0.7, 1.6)])
    def test_label_by_label_is_the_same_as_all_at_once(self, spacing_mm: tuple[float, float, float]) -> None:
        how = Preprocessing(
            spatial_dims=3, spacing_mm=spacing_mm, intensity=Window(low=0.0, high=1.0), window_size=(8, 8, 8)
        )
        image = prepare(volume_of(np.zeros((9, 20, 17), np.uint8)), how)
        labels = tuple(LESION_LABEL.model_copy(update={"number": number}) for number in (1, 2, 3))
        field = torch.randn((4, *image.image.shape), generator=torch.Generator().manual_seed(5)).softmax(
            dim=0
        )
        given = field.clone()
        label_map, certainty = to_label_map(field, image, labels, Postprocessing())
        assert torch.equal(field, given)
        native = restore(field[1:], image).numpy()
        joint = native.sum(axis=0)
        np.testing.assert_allclose(certainty, joint, atol=1e-6)
        sure = abs(joint - 0.5) > 1e-6
        expected = np.where(joint >= 0.5, native.argmax(axis=0) + 1, 0)
        np.testing.assert_array_equal(label_map.values[sure], expected[sure])
        assert set(np.unique(label_map.values)) == {0, 1, 2, 3}

    def test_outside_the_box_there_is_nothing(self) -> None:
        box = (slice(1, 3), slice(2, 5), slice(0, 4))
        image = ModelInput(torch.zeros(2, 3, 4), box, (4, 6, 6))
        field = torch.stack([torch.zeros(2, 3, 4), torch.ones(2, 3, 4)])
        label_map, certainty = to_label_map(field, image, (LESION_LABEL,), Postprocessing())
        expected = np.zeros((4, 6, 6), np.uint8)
        expected[box] = 1
        np.testing.assert_array_equal(label_map.values, expected)
        np.testing.assert_array_equal(certainty, expected.astype(np.float32))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("model_spacing_mm", [(3.0, 1.7, 1.7), (2.0, 2.5, 2.5), (None, 0.7, 0.7)])
def test_a_blob_comes_back_to_its_place_from_another_spacing(
    orientation: Orientation, model_spacing_mm: tuple[float | None, float, float]
) -> None:
    centre = (20.0, -26.0, 30.0)
    found = phantom(orientation, (3.0, 1.0, 1.5), shapes=[sphere(centre, 22.0)])
    how = Preprocessing(
        spatial_dims=3,
        spacing_mm=model_spacing_mm,
        intensity=Window(low=0.0, high=160.0),
        window_size=(8, 8, 8),
    )
    box = (slice(3, 31), slice(4, 93), slice(2, 61))
    image = prepare(found.volume, how, box)
    lesion = torch.sigmoid((image.image - 0.5) * 40.0)
    label_map, certainty = to_label_map(
        torch.stack([1.0 - lesion, lesion]), image, (LESION_LABEL,), Postprocessing()
    )
    lesions = find_lesions(label_map, found.volume, Postprocessing(), certainty=certainty)
    (measurement,) = measure_lesions(lesions, found.volume)
    assert measurement.centroid_lps_mm == pytest.approx(centre, abs=0.25)
    assert measurement.voxel_count == pytest.approx(np.count_nonzero(found.mask(1)), rel=0.1)


def by_definition(values: Values, volume: Volume) -> Values:
    """The numbers of all lesions, each found by itself over the whole grid."""
    found = np.zeros(values.shape, np.uint16)
    number = 0
    for label, structure in ((1, np.ones((3, 3, 3))), (2, None)):
        masks = []
        for run in volume.runs:
            inside = np.zeros(values.shape, np.bool_)
            inside[run] = values[run] == label
            pieces, count = (inside.astype(int), 1) if structure is None else ndimage.label(inside, structure)
            masks += [pieces == n for n in range(1, count + 1) if (pieces == n).any()]
        for mask in sorted(masks, key=np.count_nonzero, reverse=True):
            number += 1
            found[mask] = number
    return found


@settings(max_examples=150, deadline=None)
@given(
    values=arrays(
        np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2])
    ),
    starts=st.sets(st.integers(1, 5), max_size=2),
)
def test_lesions_are_those_of_the_definition(values: Values, starts: set[int]) -> None:
    clips = tuple(Clip(start, None) for start in (0, *sorted(starts)) if start < len(values))
    volume = Volume(np.zeros(values.shape, np.int16), None, "grey", clips=clips)
    found = find_lesions(LabelMap(values, (LESION_LABEL, ORGAN)), volume, Postprocessing())
    np.testing.assert_array_equal(found.values, by_definition(values, volume))
    for lesion in found.lesions:
        assert found.mask(lesion).sum() == (found.values == lesion.number).sum()
        assert ndimage.find_objects((found.values == lesion.number).astype(int))[0] == lesion.box
