"""What people see of a lesion: its picture, and its numbers as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from pydicom import Dataset

from dicomnode.show.overlay import OUTLINE_RGB, PICTURE_PIXELS, caption, draw_lesion
from dicomnode.show.record import QUANTITIES, measurement_record
from inference.measure import Absent, LesionMeasurement, measure_lesions
from tests.phantoms import Phantom, phantom

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
