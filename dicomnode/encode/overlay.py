"""Pictures for people: the key slice of a lesion with its outline, its two axes and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from skimage.measure import find_contours

from dicomnode.encode.words import image_name, spoken
from dicomnode.study import SourceFrame
from inference.labelmap import LesionMap
from inference.measure import Axis, LesionMeasurement, Quantity
from inference.volume import IntensityUnit, Volume

Point = tuple[float, float]

PICTURE_PIXELS = 768
OUTLINE_RGB = (255, 210, 0)
LONG_AXIS_RGB = (80, 220, 255)
SHORT_AXIS_RGB = (255, 120, 200)
FONT_PIXELS = 15


@dataclass(frozen=True, eq=False)
class Drawing:
    """One slice, and what is drawn on it."""

    values: npt.NDArray[np.generic]
    """(row, column)."""
    spacing_mm: tuple[float, float] | None
    """(between rows, between columns)."""
    intensity_unit: IntensityUnit
    header: Dataset
    """Of the image: how its values are shown."""
    mask: npt.NDArray[np.bool_]
    axes: tuple[tuple[Point, Point], ...]
    """Long axis, then short axis, as far as they lie in this slice; (row, column) of their ends."""
    lines: Sequence[str]


def draw_lesion(
    volume: Volume, lesion_map: LesionMap, measurement: LesionMeasurement, frame: SourceFrame
) -> Image.Image:
    """The key slice of one lesion with its outline, axes and numbers; `frame` is what it was read from."""
    plane = measurement.key_slice
    axes = (measurement.long_axis, measurement.short_axis)
    return draw(
        Drawing(
            values=volume.voxels[plane],
            spacing_mm=volume.pixel_spacing_at(plane),
            intensity_unit=volume.intensity_unit,
            header=frame.instance.header,
            mask=lesion_map.plane(measurement.number, plane),
            axes=tuple((axis.start, axis.end) for axis in axes if isinstance(axis, Axis)),
            lines=caption(measurement, frame),
        )
    )


def draw(drawing: Drawing) -> Image.Image:
    """The slice scaled to `PICTURE_PIXELS` wide with square pixels on the screen, and all that is on it."""
    grey = _to_grey(drawing)
    rows, columns = grey.shape
    row_mm, column_mm = drawing.spacing_mm or (1.0, 1.0)
    scale = PICTURE_PIXELS / columns
    row_scale = scale * row_mm / column_mm
    size = (PICTURE_PIXELS, max(1, round(rows * row_scale)))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    pen = ImageDraw.Draw(picture)

    def at(row: float, column: float) -> tuple[float, float]:
        return (column + 0.5) * scale, (row + 0.5) * row_scale

    for contour in find_contours(np.pad(drawing.mask, 1).astype(np.float64), 0.5):
        pen.line([at(row - 1, column - 1) for row, column in contour], fill=OUTLINE_RGB, width=2)
    for (start, end), colour in zip(drawing.axes, (LONG_AXIS_RGB, SHORT_AXIS_RGB), strict=False):
        pen.line([at(*start), at(*end)], fill=colour, width=2)
    _write(pen, drawing.lines)
    return picture


def caption(measurement: LesionMeasurement, frame: SourceFrame) -> list[str]:
    """The numbers of a lesion in a few lines; what is absent is left out."""
    lines = [f"{measurement.label.name} {measurement.number}"]
    axes = [
        f"{name} {axis.length.value:.1f} {spoken(axis.length.unit)}"
        for name, axis in (("long axis", measurement.long_axis), ("short axis", measurement.short_axis))
        if isinstance(axis, Axis)
    ]
    if axes:
        lines.append(", ".join(axes))
    if isinstance(measurement.volume, Quantity):
        lines.append(f"volume {measurement.volume.value:.0f} mm3")
    elif isinstance(measurement.area, Quantity):
        lines.append(f"area {measurement.area.value:.0f} {spoken(measurement.area.unit)}")
    lines.append(f"image {image_name(frame)}")
    lines.append("Research use only")
    return lines


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[str]) -> None:
    font = ImageFont.load_default(FONT_PIXELS)
    for number, line in enumerate(lines):
        place = (8, 6 + number * (FONT_PIXELS + 4))
        pen.text(place, line, fill=(255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0))


def _to_grey(drawing: Drawing) -> npt.NDArray[np.uint8]:
    values = drawing.values.astype(np.float32)
    low, high = _window(values, drawing.intensity_unit, drawing.header)
    grey: npt.NDArray[np.uint8] = (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return grey


def _window(values: npt.NDArray[np.float32], unit: IntensityUnit, header: Dataset) -> tuple[float, float]:
    """The window of the source image (CT), all of a picture for the screen, or the bulk of the values."""
    if unit == "grey":
        return 0.0, 255.0
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if unit == "HU" and centre is not None and width is not None:
        first = [float(value[0] if hasattr(value, "__len__") else value) for value in (centre, width)]
        if first[1] > 0:
            return first[0] - first[1] / 2, first[0] + first[1] / 2
    low, high = np.percentile(values, (1.0, 99.5))
    return float(low), float(max(high, low + 1.0))
