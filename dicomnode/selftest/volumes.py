"""One patient with known lesions, seen by scanners of every orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dicomnode.selftest.shapes import Box, Ellipsoid, Point, Shape, sphere
from inference.codes import Code
from inference.labelmap import Label, LabelMap, Lesion, LesionMap
from inference.volume import IntensityUnit, Volume

Orientation = Literal["axial", "coronal", "sagittal", "oblique"]
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)

FIELD_OF_VIEW_MM = 96.0
CENTRE_LPS_MM: Point = (12.0, -20.0, 35.0)
"""Middle of the field of view: every orientation looks at the same place."""
TISSUE, LESION = 40, 120
NOISE = 5
"""Greatest deviation from tissue or lesion, so lesions can be found again by a threshold of 80."""

LESION_LABEL = Label(
    number=1,
    name="Lesion",
    kind="lesion",
    category=Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure"),
    type=Code(value="52988006", scheme="SCT", meaning="Lesion"),
)

DEFAULT_LESIONS: tuple[Shape, ...] = (
    Ellipsoid((0.0, -30.0, 40.0), (15.0, 10.0, 8.0)),
    sphere((34.0, -6.0, 24.0), 16.0),
    Box((20.0, -40.0, 20.0), (9.0, 9.0, 9.0)),
)
"""From the largest to the smallest; none touches another or the border."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A volume and its truth. `shapes[i]` is lesion number i + 1 of both maps."""

    volume: Volume
    shapes: tuple[Shape, ...]
    label_map: LabelMap
    lesion_map: LesionMap

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """Voxels (slice, row, column) of one lesion on the whole grid."""
        inside: npt.NDArray[np.bool_] = self.lesion_map.values == number
        return inside


def phantom(
    orientation: Orientation = "axial",
    spacing_mm: tuple[float, float, float] = (3.0, 1.0, 1.5),
    *,
    reversed_slices: bool = False,
    tilt_degrees: float = 0.0,
    missing_slices: Sequence[int] = (),
    shapes: Sequence[Shape] = DEFAULT_LESIONS,
    intensity_unit: IntensityUnit = "HU",
    seed: int = 1,
) -> Phantom:
    """The patient as a scanner sees it. `spacing_mm` is (slice, row, column).

    Every voxel differs a little from its neighbours, so a misplaced one is noticed. Shapes must go
    from the largest to the smallest, as the node numbers lesions. The first slice may not be missing.
    """
    shape = tuple(round(FIELD_OF_VIEW_MM / spacing) for spacing in spacing_mm)
    affine = affine_lps(orientation, spacing_mm, shape, reversed_slices, tilt_degrees)
    kept = np.setdiff1d(np.arange(shape[0]), missing_slices)
    points = voxel_centres(affine, shape)[kept]
    shape = (len(kept), *shape[1:])
    numbers = np.zeros(shape, np.uint16)
    for number, solid in enumerate(shapes, start=1):
        numbers[solid.contains(points)] = number
    noise = np.random.default_rng(seed).integers(-NOISE, NOISE + 1, shape)
    voxels = (np.where(numbers > 0, LESION, TISSUE) + noise).astype(np.int16)
    return Phantom(
        Volume(voxels, affine, intensity_unit, slice_places=tuple(kept) if len(missing_slices) else ()),
        tuple(shapes),
        LabelMap((numbers > 0).astype(np.uint8), (LESION_LABEL,)),
        lesion_map_of(numbers),
    )


def affine_lps(
    orientation: Orientation,
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, ...],
    reversed_slices: bool = False,
    tilt_degrees: float = 0.0,
) -> npt.NDArray[np.float64]:
    """The affine of a grid around `CENTRE_LPS_MM`; a tilt leans the slice step towards the next row."""
    along_row, along_column = _directions(orientation)
    normal = np.cross(along_row, along_column)
    tilt = np.radians(tilt_degrees)
    across = np.cos(tilt) * normal + np.sin(tilt) * along_column
    columns = np.stack([-across if reversed_slices else across, along_column, along_row], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = columns * np.array(spacing_mm)
    affine[:3, 3] = np.array(CENTRE_LPS_MM) - affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
    return affine


def _directions(orientation: Orientation) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors (LPS) towards the next column and the next row, as scanners write them."""
    left, posterior, superior = np.eye(3)
    if orientation == "coronal":
        return left, -superior
    if orientation == "sagittal":
        return posterior, -superior
    if orientation == "oblique":
        turn = Rotation.from_euler("xyz", [17.0, -11.0, 23.0], degrees=True)
        return turn.apply(left), turn.apply(posterior)
    return left, posterior


def voxel_centres(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Places (slice, row, column, 3) of all voxels in LPS mm."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    places: npt.NDArray[np.float64] = indices @ affine[:3, :3].T + affine[:3, 3]
    return places


def lesion_map_of(numbers: npt.NDArray[np.generic]) -> LesionMap:
    """A lesion map of an array of lesion numbers 1..n; every number must occur."""
    boxes = ndimage.find_objects(numbers.astype(np.int32))
    lesions = tuple(Lesion(number, LESION_LABEL, box) for number, box in enumerate(boxes, start=1))
    return LesionMap((numbers.astype(np.uint16),), lesions)
