"""One image of a series on its own, for a picture of it."""

from __future__ import annotations

from dataclasses import dataclass

from dicomnode.read.frames import frame_headers, frame_of
from dicomnode.read.pixels import check_greyscale, read_voxels
from dicomnode.read.unplaced import is_unplaced, read_unplaced_frame
from dicomnode.read.values import intensity_unit
from dicomnode.study import Instance, Series
from inference.volume import IntensityUnit, Voxels


@dataclass(frozen=True, eq=False)
class Slice:
    """Values (row, column) as `read_volume` gives them, and the size of a pixel where it is known."""

    values: Voxels
    spacing_mm: tuple[float, float] | None
    """(between rows, between columns)."""
    intensity_unit: IntensityUnit


def read_slice(instance: Instance, frame_number: int | None = None) -> Slice:
    """One frame of an instance. Raises UnreadableSeries with the reason when it cannot be read."""
    alone = Series((instance,))
    if is_unplaced(alone):
        grey, spacing_mm = read_unplaced_frame(instance, frame_number)
        return Slice(grey, spacing_mm, "grey")
    header = frame_of(frame_headers(alone), frame_number)
    check_greyscale(header)
    spacing = header.numbers("PixelSpacing", 2)
    return Slice(
        read_voxels([header])[0],
        None if spacing is None else (spacing[0], spacing[1]),
        intensity_unit([header]),
    )
