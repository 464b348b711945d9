"""Where the slices of a series lie in the patient, and whether they make one stack.

Only Image Position (Patient), Image Orientation (Patient) and Pixel Spacing count (DICOM PS3.3
section C.7.6.2): slice thickness, slice location and gantry tilt attributes are often absent or wrong.
All positions and directions are LPS, in millimetres.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.errors import UnreadableSeries
from dicomnode.read.duplicates import difference
from dicomnode.read.frames import FrameHeader, name_all

Vector = npt.NDArray[np.float64]

ORIENTATION_TOLERANCE = 1e-3
"""Of a direction cosine: four decimals in a header pass, and across 500 mm it moves a pixel by half a mm."""
SPACING_TOLERANCE = 1e-3
"""Relative: over 512 pixels it moves the last one by half a pixel; rounding in headers is far below."""
SAME_PLACE_MM = 0.01
"""Slices nearer than this are at one place: a tenth of the finest slice distance of clinical CT."""
STAND_IN_MM = 1.0
"""Thickness of a single slice that does not say its own, so that it has an affine."""
STEP_TOLERANCE = 0.1
"""A slice may lie a tenth of a step from an even grid: positions rounded to 0.1 mm pass as even, a missing
slice (at least half a step) does not."""
GREATEST_GAP = 4.0
"""In usual slice distances. Across a wider gap nothing is interpolated: these are two stacks."""
SIDEWAYS_TOLERANCE = 0.25
"""In pixels: how far a slice may lie beside the straight line through the first and the last one."""
GREATEST_TILT_DEGREES = 45.0
"""No gantry tilts by more than 30 degrees; positions that move sideways faster are not one stack."""


@dataclass(frozen=True)
class Directions:
    """`along_row` points to the next column, `along_column` to the next row: perpendicular unit vectors."""

    along_row: tuple[float, ...]
    along_column: tuple[float, ...]

    @property
    def normal(self) -> Vector:
        """Unit vector across the slice, right-handed with row and column direction."""
        across = np.cross(self.along_row, self.along_column)
        return across / np.linalg.norm(across)


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice in the patient."""

    header: FrameHeader
    position_mm: tuple[float, ...]
    directions: Directions
    spacing_mm: tuple[float, ...]
    """(between rows, between columns)."""
    shape: tuple[int, int]
    """(rows, columns)."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their normal, and the affine that maps (slice, row, column, 1) to LPS mm.

    Where their distances differ, slice i lies at step `slice_places[i]` of the affine, and `unevenness`
    says so in words.
    """

    planes: tuple[Plane, ...]
    affine_lps: npt.NDArray[np.float64]
    slice_places: tuple[float, ...] = ()
    unevenness: str | None = None
    thickness_known: bool = True


def place(header: FrameHeader) -> Plane:
    """The plane of one frame; raises UnreadableSeries when its header does not place it."""
    rows, columns = header.number("Rows"), header.number("Columns")
    position = header.numbers("ImagePositionPatient", 3)
    orientation = header.numbers("ImageOrientationPatient", 6)
    spacing = header.numbers("PixelSpacing", 2)
    if position is None or orientation is None:
        frame_of_reference = "" if header.get("FrameOfReferenceUID") else " and no frame of reference"
        missing = "ImagePositionPatient" if position is None else "ImageOrientationPatient"
        raise UnreadableSeries(
            f"{header.name} has no {missing}{frame_of_reference}: its place in the patient is not known; "
            "only images with a position can be processed"
        )
    if spacing is None or min(spacing) <= 0:
        raise UnreadableSeries(
            f"{header.name} has no {'' if spacing is None else 'positive '}PixelSpacing: nothing can be "
            "measured in millimetres; send the calibrated original"
        )
    directions = _directions(orientation)
    if directions is None:
        raise UnreadableSeries(
            f"{header.name}: ImageOrientationPatient is not two perpendicular unit vectors; "
            "the header must be corrected at its source"
        )
    return Plane(header, position, directions, spacing, (int(rows or 0), int(columns or 0)))


@lru_cache(maxsize=64)
def _directions(orientation: tuple[float, ...]) -> Directions | None:
    """None where these are not two perpendicular unit vectors. The slices of a series share them."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    crooked = abs(lengths[0] - 1) > ORIENTATION_TOLERANCE or abs(lengths[1] - 1) > ORIENTATION_TOLERANCE
    if crooked or abs(row @ column) > ORIENTATION_TOLERANCE:
        return None
    return Directions(tuple((row / lengths[0]).tolist()), tuple((column / lengths[1]).tolist()))


def arrange(planes: Sequence[Plane]) -> Stack:
    """Sort the slices along their normal; raises UnreadableSeries when they are not one stack."""
    _check_same(planes)
    normal = planes[0].directions.normal
    heights = np.array([plane.position_mm for plane in planes]) @ normal
    ordered = [planes[index] for index in np.argsort(heights, kind="stable")]
    first = ordered[0]
    steps = _single_step(first) if len(ordered) == 1 else _steps(ordered, normal)
    affine = np.eye(4)
    affine[:3, 0] = steps.step_mm
    affine[:3, 1] = np.array(first.directions.along_column) * first.spacing_mm[0]
    affine[:3, 2] = np.array(first.directions.along_row) * first.spacing_mm[1]
    affine[:3, 3] = first.position_mm
    return Stack(tuple(ordered), affine, steps.places, steps.unevenness, steps.thickness_known)


def _check_same(planes: Sequence[Plane]) -> None:
    """Raise UnreadableSeries unless all slices have one size, orientation, spacing and frame of reference."""
    remedy = "a localizer or another stack is mixed in; send every stack as a series of its own"
    for what, value, same in COMPARED:
        kinds = _kinds(planes, value, same)
        if len(kinds) > 1:
            groups = " / ".join(name_all([plane.header.name for plane in kind]) for kind in kinds[:3])
            raise UnreadableSeries(f"{len(kinds)} {what} in one series ({groups}): {remedy}")


def _kinds(
    planes: Sequence[Plane], value: Callable[[Plane], Hashable], same: Callable[[Any, Any], bool]
) -> list[list[Plane]]:
    """Planes by their value. Each value is compared once, as nearly all slices have the very same."""
    kinds: list[list[Plane]] = []
    kind_of: dict[Hashable, list[Plane]] = {}
    for plane in planes:
        own = value(plane)
        kind = kind_of.get(own)
        if kind is None:
            kind = next((kind for kind in kinds if same(value(kind[0]), own)), None)
            if kind is None:
                kind = []
                kinds.append(kind)
            kind_of[own] = kind
        kind.append(plane)
    return kinds


def _same_orientation(a: Directions, b: Directions) -> bool:
    difference = np.subtract([a.along_row, a.along_column], [b.along_row, b.along_column])
    return bool(np.abs(difference).max() <= ORIENTATION_TOLERANCE)


def _same_spacing(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(abs(x - y) <= SPACING_TOLERANCE * x for x, y in zip(a, b, strict=True))


COMPARED: tuple[tuple[str, Callable[[Plane], Hashable], Callable[[Any, Any], bool]], ...] = (
    ("frames of reference", lambda plane: str(plane.header.get("FrameOfReferenceUID")), operator.eq),
    ("orientations", lambda plane: plane.directions, _same_orientation),
    ("image sizes", lambda plane: plane.shape, operator.eq),
    ("pixel spacings", lambda plane: plane.spacing_mm, _same_spacing),
)
"""What all slices of a stack share: its name, where it is found, and when two of them are the same."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The usual step from slice to slice (LPS mm), and where slices lie that do not keep it."""

    step_mm: Vector
    places: tuple[float, ...] = ()
    unevenness: str | None = None
    thickness_known: bool = True


def _single_step(plane: Plane) -> Steps:
    """Of a series of one slice: its own spacing or thickness where given."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = plane.header.number(keyword)
        if value is not None and value > SAME_PLACE_MM:
            return Steps(plane.directions.normal * value)
    return Steps(plane.directions.normal * STAND_IN_MM, thickness_known=False)


def _steps(ordered: Sequence[Plane], normal: Vector) -> Steps:
    """(last - first) / (n - 1) where every slice lies near first + i * step; else the usual distance."""
    positions = np.array([plane.position_mm for plane in ordered])
    heights = (positions - positions[0]) @ normal  # 0 for the first, to the last bit
    _check_distinct(ordered, positions, heights)
    step: Vector = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_tilt(step, normal)
    line = positions[0] + np.outer(heights / heights[-1], positions[-1] - positions[0])
    _check_one_line(ordered, positions - line)
    along = float(step @ normal)
    if np.abs(heights - along * np.arange(len(ordered))).max() <= STEP_TOLERANCE * along:
        return Steps(step)
    usual = float(np.median(np.diff(heights)))
    words = _unevenness(ordered, heights, usual)
    return Steps(step * (usual / along), tuple((heights / usual).tolist()), words)


def _check_one_line(ordered: Sequence[Plane], beside_mm: Vector) -> None:
    sideways = np.linalg.norm(beside_mm, axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] > SIDEWAYS_TOLERANCE * min(ordered[0].spacing_mm):
        raise UnreadableSeries(
            f"{ordered[worst].header.name} lies {sideways[worst]:.2f} mm beside the line of the "
            "others: they are not one stack; send slices that lie in one line"
        )


def _check_tilt(step: Vector, normal: Vector) -> None:
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0)))
    if tilt > GREATEST_TILT_DEGREES:
        raise UnreadableSeries(
            f"slices move sideways at {tilt:.0f} degrees from their normal (at most "
            f"{GREATEST_TILT_DEGREES:.0f}): they are not one stack; send slices that lie in one line"
        )


def _unevenness(ordered: Sequence[Plane], heights: Vector, usual: float) -> str:
    """How slice distances differ, in words; raises UnreadableSeries for a gap that separates two stacks."""
    steps = np.diff(heights)
    differing = int(np.count_nonzero(np.abs(steps - usual) > STEP_TOLERANCE * usual))
    worst = int(np.argmax(np.abs(steps - usual)))
    ratio = float(steps[worst]) / usual
    missing = round(ratio) - 1 if abs(ratio - round(ratio)) <= STEP_TOLERANCE else 0
    words = (
        f"{f'{missing} slice(s) missing' if missing > 0 else 'uneven slice distance'}: "
        f"{steps[worst]:.2f} mm between {ordered[worst].header.name} and "
        f"{ordered[worst + 1].header.name}, usually {usual:.2f} mm ({differing} of {len(steps)} distances "
        "differ)"
    )
    if steps.max() > GREATEST_GAP * usual * (1 + STEP_TOLERANCE):
        raise UnreadableSeries(
            f"{words}; a gap of more than {GREATEST_GAP:.0f} slice distances separates two stacks: send the "
            "missing slices, or every stack as a series of its own"
        )
    return words


def _check_distinct(ordered: Sequence[Plane], positions: Vector, heights: Vector) -> None:
    close = np.flatnonzero(np.diff(heights) < SAME_PLACE_MM)
    if not close.size:
        return
    at = int(close[0])
    end = at + 1
    while end < len(ordered) and heights[end] - heights[at] < SAME_PLACE_MM:
        end += 1
    together = [plane.header for plane in ordered[at:end]]
    names = name_all([header.name for header in together])
    if np.linalg.norm(positions[at + 1] - positions[at]) >= SAME_PLACE_MM:
        raise UnreadableSeries(
            f"{names} lie beside each other in one plane: they are not one stack; "
            "send every stack as a series of its own"
        )
    raise UnreadableSeries(f"{len(close)} duplicate slice positions, first {names}; {difference(together)}")
