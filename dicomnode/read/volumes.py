"""From a series to a volume in patient space, or the exact reason why not."""

from __future__ import annotations

from dicomnode.read.frames import frame_headers
from dicomnode.read.geometry import arrange, place
from dicomnode.read.pixels import check_greyscale, intensity_unit, read_voxels
from dicomnode.read.unplaced import is_unplaced, read_unplaced
from dicomnode.study import Series, SourceVolume
from inference.volume import Volume


def read_volume(series: Series) -> SourceVolume:
    """Read the pixels of `series` and place them in the patient (LPS, mm).

    Slices are sorted along their normal; a gantry tilt becomes a sheared affine. Values are
    real-world values: HU for CT with a rescale, else arbitrary.

    Ultrasound without a place in the patient becomes grey values 0..255 (see `unplaced.py`).

    Raises UnreadableSeries with the reason when the series is not one even grid of greyscale slices.
    """
    if is_unplaced(series):
        return read_unplaced(series)
    headers = frame_headers(series)
    for header in headers:
        check_greyscale(header)
    stack = arrange([place(header) for header in headers])
    ordered = [plane.header for plane in stack.planes]
    volume = Volume(read_voxels(ordered), stack.affine_lps, intensity_unit(ordered))
    return SourceVolume(series, volume, tuple(header.frame for header in ordered))
