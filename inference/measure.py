"""Lesion measurements in millimetres. What cannot be computed is absent with a reason, never 0.

Images without a place in the patient have lengths and areas within one image only, in pixels where their
size is not known.

All diameters run between voxel centres, as SimpleITK, pyradiomics and cc3d define them; the short axis runs
between two points of the outline through the centres of border pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from inference.diameters import (
    Mask,
    Points,
    border_edges,
    diameter_bounds,
    hull_corners,
    largest_length,
    longest_length,
    longest_line,
    longest_perpendicular,
    run_ends,
)
from inference.labelmap import Label, Lesion, LesionMap
from inference.surface import surface_area
from inference.volume import Volume


@dataclass(frozen=True)
class Absent:
    """A value that could not be computed, and why."""

    reason: str


@dataclass(frozen=True)
class Quantity:
    """A number with its UCUM unit."""

    value: float
    unit: str


@dataclass(frozen=True)
class Axis:
    """A straight line across a lesion within one slice; ends are fractional (row, column) indices."""

    length: Quantity
    slice_index: int
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True)
class LesionMeasurement:
    """Everything that is measured of one lesion. Slices are indices into the volume."""

    number: int
    label: Label
    voxel_count: int
    key_slice: int
    first_slice: int
    last_slice: int
    truncated: bool
    """The lesion touches the border of the image, so its size is a lower bound."""
    pieces: int
    """In its key slice, that its axes may run between; 1 without a place in the patient (`_axes`)."""
    area: Quantity | Absent
    """In its key slice."""
    volume: Quantity | Absent
    long_axis: Axis | Absent
    short_axis: Axis | Absent
    largest_diameter: Quantity | Absent
    surface: Quantity | Absent
    centroid_lps_mm: tuple[float, float, float] | Absent
    mean: Quantity | Absent
    standard_deviation: Quantity | Absent
    minimum: Quantity | Absent
    maximum: Quantity | Absent


UCUM_OF_INTENSITY = {"HU": "[hnsf'U]", "arbitrary": "1", "grey": "1"}
NO_GEOMETRY = Absent("the images have no place in the patient")
NO_THICKNESS = Absent("the thickness of the only slice is not known")
NO_INTENSITY = Absent("grey values for display measure nothing")
PIXELS = "{pixels}"
SAME_LENGTH_MM = 1e-3
"""Far more than what rounding does to a length, and than what the choice between slices rounds to."""


def measure_lesions(lesion_map: LesionMap, volume: Volume) -> tuple[LesionMeasurement, ...]:
    """Measure every lesion of `lesion_map` on the grid of `volume`.

    Raises ValueError when the two grids differ.
    """
    if lesion_map.shape != volume.shape:
        raise ValueError(f"lesion map {lesion_map.shape} is not on the volume's grid {volume.shape}")
    return tuple(_measure(lesion, lesion_map, volume) for lesion in lesion_map.lesions)


def total_volume(measurements: tuple[LesionMeasurement, ...]) -> Quantity | Absent:
    """Sum of the volumes of lesions that do not overlap; absent when one of them is."""
    volumes = [m.volume for m in measurements]
    known = [volume.value for volume in volumes if isinstance(volume, Quantity)]
    if len(known) < len(volumes):
        return next(volume for volume in volumes if isinstance(volume, Absent))
    return Quantity(sum(known), "mm3")


def total_burden(
    lesion_map: LesionMap, measurements: tuple[LesionMeasurement, ...], volume: Volume
) -> Quantity | Absent:
    """Volume of everything found; a voxel with several labels counts once."""
    if len(lesion_map.layers) == 1 or _no_depth(volume):
        return total_volume(measurements)
    found: Mask = np.any([layer > 0 for layer in lesion_map.layers], axis=0)
    return Quantity(volume.volume_mm3(found), "mm3")


def _measure(lesion: Lesion, lesion_map: LesionMap, volume: Volume) -> LesionMeasurement:
    mask = lesion_map.mask(lesion)
    voxel_count = int(np.count_nonzero(mask))
    key_slice, long_axis, short_axis = _axes(mask, lesion, volume)
    plane = mask[key_slice - lesion.box[0].start]
    mean, deviation, minimum, maximum = _intensities(volume.voxels[lesion.box][mask], volume)
    return LesionMeasurement(
        number=lesion.number,
        label=lesion.label,
        voxel_count=voxel_count,
        key_slice=key_slice,
        first_slice=lesion.box[0].start,
        last_slice=lesion.box[0].stop - 1,
        truncated=_touches_border(lesion, volume),
        pieces=int(ndimage.label(plane, np.ones((3, 3)))[1]) if volume.has_geometry else 1,
        area=_area(plane, volume.pixel_spacing_at(key_slice)),
        volume=_volume(mask, lesion, volume),
        long_axis=long_axis,
        short_axis=short_axis,
        largest_diameter=_largest_diameter(mask, lesion, volume),
        surface=_surface(mask, lesion, volume),
        centroid_lps_mm=_centroid(mask, lesion, volume),
        mean=mean,
        standard_deviation=deviation,
        minimum=minimum,
        maximum=maximum,
    )


def _no_depth(volume: Volume) -> Absent | None:
    """Why nothing is measured that needs to know how thick a slice is."""
    if not volume.has_geometry:
        return NO_GEOMETRY
    return None if volume.thickness_known else NO_THICKNESS


def _volume(mask: Mask, lesion: Lesion, volume: Volume) -> Quantity | Absent:
    if absent := _no_depth(volume):
        return absent
    return Quantity(volume.volume_mm3(mask, lesion.box[0].start), "mm3")


def _area(plane: Mask, spacing_mm: tuple[float, float] | None) -> Quantity:
    pixels = int(np.count_nonzero(plane))
    if spacing_mm is None:
        return Quantity(float(pixels), PIXELS)
    return Quantity(pixels * spacing_mm[0] * spacing_mm[1], "mm2")


def _touches_border(lesion: Lesion, volume: Volume) -> bool:
    """Only slices that lie side by side in the patient have a border along their axis."""
    axes = range(3) if volume.has_geometry and volume.shape[0] > 1 else range(1, 3)
    return any(lesion.box[axis].start == 0 or lesion.box[axis].stop == volume.shape[axis] for axis in axes)


def _intensities(
    values: npt.NDArray[np.generic], volume: Volume
) -> tuple[Quantity | Absent, Quantity | Absent, Quantity | Absent, Quantity | Absent]:
    """Mean, standard deviation, minimum and maximum."""
    if volume.intensity_unit == "grey":
        return NO_INTENSITY, NO_INTENSITY, NO_INTENSITY, NO_INTENSITY
    unit = UCUM_OF_INTENSITY[volume.intensity_unit]
    exact = values.astype(np.float64)
    deviation: Quantity | Absent = Absent("one voxel has no standard deviation")
    if exact.size > 1:
        deviation = Quantity(float(exact.std(ddof=1)), unit)
    return (
        Quantity(float(exact.mean()), unit),
        deviation,
        Quantity(float(exact.min()), unit),
        Quantity(float(exact.max()), unit),
    )


def _centroid(mask: Mask, lesion: Lesion, volume: Volume) -> tuple[float, float, float] | Absent:
    if not volume.has_geometry:
        return NO_GEOMETRY
    voxels = np.argwhere(mask) + _corner(lesion)
    shares = volume.slice_extents[voxels[:, 0].astype(int)]
    left, posterior, superior = np.average(volume.to_lps_mm(voxels), axis=0, weights=shares)
    return float(left), float(posterior), float(superior)


def _corner(lesion: Lesion) -> Points:
    """Index (slice, row, column) of the first voxel of the lesion's box."""
    return np.array([box.start for box in lesion.box], dtype=np.float64)


def _surface(mask: Mask, lesion: Lesion, volume: Volume) -> Quantity | Absent:
    """Area of the marching-cubes mesh at 0.5 (IBSI reference manual, 3.1 'Surface area (mesh)')."""
    if absent := _no_depth(volume):
        return absent
    beside = np.zeros((mask.shape[0] + 2, 3))  # a slice before, those of the lesion, and one behind
    beside[:, 0] = np.arange(len(beside)) + lesion.box[0].start - 1
    gaps = np.diff(volume.to_steps(beside)[:, 0])
    return Quantity(surface_area(mask, volume.affine[:3, :3], gaps), "mm2")


def _largest_diameter(mask: Mask, lesion: Lesion, volume: Volume) -> Quantity | Absent:
    """Largest distance between two voxels of the lesion in three dimensions."""
    if not volume.has_geometry:
        return NO_GEOMETRY
    places = volume.slice_places[lesion.box[0]] or None
    length_mm = largest_length(mask, volume.affine[:3, :3], places)
    return Absent("the lesion is a single voxel") if length_mm is None else Quantity(length_mm, "mm")


def _axes(mask: Mask, lesion: Lesion, volume: Volume) -> tuple[int, Axis | Absent, Axis | Absent]:
    """Longest diameter over all slices and its perpendicular in the same slice (RECIST 1.1).

    Returns the slice that shows the lesion best, the long axis and the short axis.
    """
    spacing = volume.pixel_spacing_at(lesion.box[0].start) or (1.0, 1.0)
    planes = mask if volume.has_geometry else np.stack([_largest_piece(plane) for plane in mask])
    best, points = _longest_plane(planes, spacing)
    long_line = longest_line(hull_corners(points))
    if long_line is None:
        widest = int(np.argmax(mask.sum(axis=(1, 2))))
        absent = Absent("the lesion is one pixel wide in every slice")
        return widest + lesion.box[0].start, absent, absent
    short_line = longest_perpendicular(border_edges(planes[best]) * np.array(spacing), long_line)
    return (
        best + lesion.box[0].start,
        _axis(long_line, best, lesion, volume),
        Absent("the lesion is one pixel wide in its longest slice")
        if short_line is None
        else _axis(short_line, best, lesion, volume),
    )


def _longest_plane(planes: Mask, spacing: tuple[float, float]) -> tuple[int, Points]:
    """The first plane with the longest line of all, and the ends of its runs (point, row and column) in mm.

    Only planes that may have it are looked at.
    """
    ends = run_ends(planes)
    points = ends[:, 1:].astype(np.float64) * spacing
    indices, starts = np.unique(ends[:, 0], return_index=True)
    of_plane = np.split(points, starts[1:])
    shortest, longest = diameter_bounds(points, starts)
    possible = np.flatnonzero(longest >= shortest.max() - SAME_LENGTH_MM)
    lengths = [longest_length(of_plane[place]) or 0.0 for place in possible]
    best = possible[np.argmax(np.round(lengths, 6))]
    return int(indices[best]), of_plane[best]


def _largest_piece(plane: Mask) -> Mask:
    """What is apart in an image and meets only at another time is not measured as one."""
    pieces, count = ndimage.label(plane, np.ones((3, 3)))
    if count < 2:
        return plane
    largest: Mask = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    return largest


def _length(line: Points) -> float:
    return float(np.linalg.norm(line[1] - line[0]))


def _axis(line: Points, index: int, lesion: Lesion, volume: Volume) -> Axis:
    """The line, given in millimetres from the corner of the lesion's box, on the volume's grid."""
    slice_index = index + lesion.box[0].start
    spacing_mm = volume.pixel_spacing_at(slice_index)
    corner = np.array([lesion.box[1].start, lesion.box[2].start], dtype=np.float64)
    start, end = line / np.array(spacing_mm or (1.0, 1.0)) + corner
    return Axis(
        length=Quantity(_length(line), "mm" if spacing_mm else PIXELS),
        slice_index=slice_index,
        start=(float(start[0]), float(start[1])),
        end=(float(end[0]), float(end[1])),
    )
