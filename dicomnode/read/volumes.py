"""From a series to a volume in patient space, or the exact reason why not."""

from __future__ import annotations

import numpy as np

from dicomnode.read.frames import frame_headers, one_of_each_kind
from dicomnode.read.geometry import STAND_IN_MM, Stack, arrange, place
from dicomnode.read.pixels import check_greyscale, read_voxels
from dicomnode.read.room import Allocate
from dicomnode.read.unplaced import is_unplaced, read_unplaced
from dicomnode.read.values import intensity_unit
from dicomnode.study import Series, SourceVolume
from inference.volume import Volume

UNEVEN = (
    "Each slice counts half way to its neighbours in volumes; what lies only between the slices was not seen."
)
"""For the reports, after what is uneven."""
NO_THICKNESS = (
    "The thickness of the only slice is not known, so no volume is given; "
    f"the smallest size of a lesion assumes {STAND_IN_MM:g} mm."
)


def read_volume(series: Series, empty: Allocate = np.empty) -> SourceVolume:
    """Read the pixels of `series` and place them in the patient (LPS, mm).

    Slices are sorted along their normal; a gantry tilt becomes a sheared affine, and slices at uneven
    distances keep their places, with a note for the reports. Values are real-world values: HU for CT
    with a rescale, else arbitrary.

    Voxels of 16 bits are read straight into what `empty` makes.
    Ultrasound without a place in the patient becomes grey values 0..255 (see `unplaced.py`).

    Raises UnreadableSeries with the reason when the series is not one stack of greyscale slices.
    """
    if is_unplaced(series):
        return read_unplaced(series)
    headers = frame_headers(series)
    for header in one_of_each_kind(headers):
        check_greyscale(header)
    stack = arrange([place(header) for header in headers])
    ordered = [plane.header for plane in stack.planes]
    volume = Volume(
        read_voxels(ordered, empty),
        stack.affine_lps,
        intensity_unit(ordered),
        slice_places=stack.slice_places,
        thickness_known=stack.thickness_known,
    )
    return SourceVolume(series, volume, tuple(header.frame for header in ordered), _notes(stack))


def _notes(stack: Stack) -> tuple[str, ...]:
    if stack.unevenness is not None:
        return (f"{stack.unevenness}. {UNEVEN}",)
    return () if stack.thickness_known else (NO_THICKNESS,)
