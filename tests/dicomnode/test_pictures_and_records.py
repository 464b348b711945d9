"""What people see of a lesion: its picture, and its numbers as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset

from dicomnode.encode.overlay import OUTLINE_RGB, PICTURE_PIXELS, caption, draw_lesion
from dicomnode.encode.words import numbers_of
from dicomnode.show.record import QUANTITIES, measurement_record
from inference.measure import Absent, LesionMeasurement, Quantity, measure_lesions
from inference.volume import Volume
from tests.phantoms import Phantom, lesion_map_of, phantom
from tests.phantoms.ultrasound import COLUMNS, ROWS, ultrasound_phantom

SPACING_MM = (8.0, 2.0, 3.0)


def measured() -> tuple[Phantom, tuple[LesionMeasurement, ...]]:
    truth = phantom(spacing_mm=SPACING_MM)
    return truth, measure_lesions(truth.lesion_map, truth.volume)


def test_the_picture_has_square_pixels_and_an_outline_around_the_lesion_only() -> None:
    truth, (first, *_) = measured()
    picture = draw_lesion(truth.volume, truth.lesion_map, first, Dataset())
    slices, rows, columns = truth.volume.shape
    assert slices > first.key_slice
    assert picture.width == PICTURE_PIXELS
    assert picture.height == round(PICTURE_PIXELS * rows * 2.0 / (columns * 3.0))
    yellow = np.argwhere((np.asarray(picture) == OUTLINE_RGB).all(axis=-1))
    mask = np.argwhere(truth.mask(1)[first.key_slice])
    scale = np.array([picture.height / rows, picture.width / columns])
    low, high = mask.min(axis=0) * scale, (mask.max(axis=0) + 1) * scale
    assert len(yellow) > 50
    assert np.allclose(yellow.min(axis=0), low, atol=scale.max())
    assert np.allclose(yellow.max(axis=0), high, atol=scale.max())


def test_the_caption_names_the_numbers_and_leaves_out_what_is_absent() -> None:
    truth, (first, *_) = measured()
    assert f"image {first.key_slice + 1} of {truth.volume.shape[0]}" in caption(first, truth.volume)
    assert any(line.startswith("long axis") for line in caption(first, truth.volume))
    nothing = Absent("no geometry")
    bare = replace(first, long_axis=nothing, short_axis=nothing, volume=nothing)
    lines = caption(bare, truth.volume)
    assert not any("axis" in line or "volume" in line for line in lines)
    assert "Research use only" in lines


def test_a_record_holds_values_with_units_and_reasons_for_what_is_absent() -> None:
    _, (first, *_) = measured()
    record = json.loads(json.dumps(measurement_record(first)))
    assert record["volume"]["unit"] == "mm3"
    assert record["volume"]["value"] > 0
    nothing = Absent("no geometry")
    absent = replace(
        first, long_axis=nothing, short_axis=nothing, centroid_lps_mm=nothing,
        **dict.fromkeys(QUANTITIES, nothing),  # type: ignore[arg-type]
    )  # fmt: skip
    record = json.loads(json.dumps(measurement_record(absent)))
    for name in ("long_axis", "short_axis", "centroid_lps_mm", *QUANTITIES):
        assert record[name] == {"absent": "no geometry"}


@pytest.mark.parametrize(("ucum", "mean"), [("[hnsf'U]", "240.7 HU"), ("1", "240.7")])
def test_a_number_without_a_unit_is_not_followed_by_a_1(ucum: str, mean: str) -> None:
    _, (first, *_) = measured()
    assert mean in numbers_of(replace(first, mean=Quantity(240.7, ucum)))


@pytest.mark.parametrize(("spacing_mm", "area"), [((0.25, 0.5), "area 20 mm2"), (None, "area 163 pixels")])
def test_an_ultrasound_lesion_has_its_picture_with_lengths_and_area(
    spacing_mm: tuple[float, float] | None, area: str
) -> None:
    truth = ultrasound_phantom(3)
    lesion_map = lesion_map_of(truth.numbers)
    volume = Volume(truth.grey.astype(np.int16), None, "grey", spacing_mm)
    assert np.count_nonzero(truth.numbers[2] == 1) == 163
    first, _ = measure_lesions(lesion_map, volume)
    picture = draw_lesion(volume, lesion_map, first, Dataset())
    ratio = 1.0 if spacing_mm is None else spacing_mm[0] / spacing_mm[1]
    assert picture.height == round(PICTURE_PIXELS * ROWS / COLUMNS * ratio)
    lines = caption(first, volume)
    assert area in lines
    assert ("pixels" in lines[1]) == (spacing_mm is None)
    corner = np.asarray(picture)[-1, -1]
    assert abs(int(corner[0]) - 40) <= 6, "grey values are shown as they are"
    assert measurement_record(first)["volume"] == {"absent": "the images have no place in the patient"}
