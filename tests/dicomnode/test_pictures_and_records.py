"""What people see of a lesion: its picture, and its numbers as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ImageFont
from pydicom import Dataset

from dicomnode.encode.overlay import OUTLINE_RGB, PICTURE_PIXELS, caption, draw_lesion
from dicomnode.encode.pictures import COLUMN_PIXELS, FONT_PIXELS, MARGIN_PIXELS
from dicomnode.encode.words import numbers_of
from dicomnode.show.record import QUANTITIES, measurement_record
from dicomnode.study import SourceFrame
from inference.measure import Absent, LesionMeasurement, Quantity, measure_lesions
from inference.volume import Volume
from tests.phantoms import Phantom, lesion_map_of, phantom
from tests.phantoms.ultrasound import COLUMNS, ROWS, ultrasound_phantom

SPACING_MM = (8.0, 2.0, 3.0)


def frame_of(number: str | None = None, frame_number: int | None = None) -> SourceFrame:
    """The frame of an image with this Instance Number, of which nothing else is asked here."""
    header = Dataset()
    if number is not None:
        header.InstanceNumber = number
    return SourceFrame(SimpleNamespace(header=header, values=header), frame_number)  # type: ignore[arg-type]


def measured() -> tuple[Phantom, tuple[LesionMeasurement, ...]]:
    truth = phantom(spacing_mm=SPACING_MM)
    return truth, measure_lesions(truth.lesion_map, truth.volume)


def test_the_picture_has_square_pixels_and_an_outline_around_the_lesion_only() -> None:
    truth, (first, *_) = measured()
    picture = draw_lesion(truth.volume, truth.lesion_map, first, frame_of())
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
    _, (first, *_) = measured()
    assert any(line.startswith("long axis") for line in caption(first, frame_of()))
    nothing = Absent("no geometry")
    bare = replace(first, long_axis=nothing, short_axis=nothing, volume=nothing)
    lines = caption(bare, frame_of())
    assert not any("axis" in line or "volume" in line for line in lines)
    assert "Research use only" in lines


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (frame_of("135"), "135"),
        (frame_of("3", 7), "3, frame 7"),
        (frame_of(), "no number"),
        (frame_of("", 7), "no number, frame 7"),
    ],
)
def test_an_image_is_named_as_viewers_name_it_not_by_its_place(frame: SourceFrame, named: str) -> None:
    _, (first, *_) = measured()
    assert f"image {named}" in caption(first, frame)
    assert numbers_of(first, frame)[-1] == named


def test_the_table_on_a_picture_has_room_for_the_name_of_an_image() -> None:
    begins = MARGIN_PIXELS + sum(COLUMN_PIXELS)
    width = ImageFont.load_default(FONT_PIXELS).getlength("12, frame 117")
    assert begins + width <= PICTURE_PIXELS


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
    assert mean in numbers_of(replace(first, mean=Quantity(240.7, ucum)), frame_of())


@pytest.mark.parametrize(("spacing_mm", "area"), [((0.25, 0.5), "area 20 mm2"), (None, "area 163 pixels")])
def test_an_ultrasound_lesion_has_its_picture_with_lengths_and_area(
    spacing_mm: tuple[float, float] | None, area: str
) -> None:
    truth = ultrasound_phantom(3)
    lesion_map = lesion_map_of(truth.numbers)
    volume = Volume(truth.grey.astype(np.int16), None, "grey", spacing_mm)
    assert np.count_nonzero(truth.numbers[2] == 1) == 163
    first, _ = measure_lesions(lesion_map, volume)
    picture = draw_lesion(volume, lesion_map, first, frame_of())
    ratio = 1.0 if spacing_mm is None else spacing_mm[0] / spacing_mm[1]
    assert picture.height == round(PICTURE_PIXELS * ROWS / COLUMNS * ratio)
    lines = caption(first, frame_of())
    assert area in lines
    assert ("pixels" in lines[1]) == (spacing_mm is None)
    corner = np.asarray(picture)[-1, -1]
    assert abs(int(corner[0]) - 40) <= 6, "grey values are shown as they are"
    assert measurement_record(first)["volume"] == {"absent": "the images have no place in the patient"}
