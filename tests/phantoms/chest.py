"""A chest in CT: a body with two lungs, a spine, a table, and nodules of known place and size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dicomnode.selftest.shapes import Ellipsoid, sphere
from dicomnode.selftest.volumes import LESION_LABEL, Phantom, lesion_map_of, voxel_centres
from inference.labelmap import LabelMap
from inference.volume import Volume

AIR_HU, LUNG_HU, TISSUE_HU, BONE_HU, NODULE_HU = -1000, -850, 40, 400, 30

BODY = Ellipsoid((0.0, 0.0, 0.0), (170.0, 115.0, 1000.0))
LUNGS = (
    Ellipsoid((75.0, -10.0, 0.0), (62.0, 80.0, 95.0)),
    Ellipsoid((-75.0, -10.0, 0.0), (62.0, 80.0, 95.0)),
)
SPINE = Ellipsoid((0.0, 75.0, 0.0), (20.0, 20.0, 1000.0))
TABLE_TOP_MM = 125.0
"""The table begins behind the body, at this posterior position."""

NODULES = (
    sphere((135.0, -10.0, 0.0), 18.0),  # at the chest wall: half in the lung, half in the wall
    sphere((-70.0, -20.0, 25.0), 14.0),
    sphere((60.0, 30.0, -30.0), 8.0),
)
"""From the largest to the smallest; the first one grows on the wall."""


@dataclass(frozen=True, eq=False)
class Chest(Phantom):
    """`lungs` (slice, row, column) is where the lungs are, with the nodules in them."""

    lungs: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def chest(
    spacing_mm: tuple[float, float, float] = (5.0, 2.0, 2.0),
    nodules: tuple[Ellipsoid, ...] = NODULES,
    *,
    with_lungs: bool = True,
    seed: int = 1,
) -> Chest:
    """An axial CT of 370 x 270 x 220 mm; without lungs it is an abdomen full of tissue."""
    shape = tuple(round(size / spacing) for size, spacing in zip((220, 270, 370), spacing_mm, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = np.fliplr(np.eye(3)) * np.array(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
    points = voxel_centres(affine, shape)
    hu = np.full(shape, AIR_HU, np.int16)
    hu[BODY.contains(points)] = TISSUE_HU
    hu[points[..., 1] > TABLE_TOP_MM] = TISSUE_HU
    lungs = np.zeros(shape, np.bool_)
    if with_lungs:
        lungs = np.logical_or.reduce([lung.contains(points) for lung in LUNGS])
    hu[lungs] = LUNG_HU
    hu[SPINE.contains(points)] = BONE_HU
    numbers = np.zeros(shape, np.uint16)
    for number, nodule in enumerate(nodules if with_lungs else (), start=1):
        numbers[nodule.contains(points)] = number
    hu[numbers > 0] = NODULE_HU
    hu += np.random.default_rng(seed).integers(-20, 21, shape).astype(np.int16)
    label_map = LabelMap((numbers > 0).astype(np.uint8), (LESION_LABEL,))
    return Chest(Volume(hu, affine, "HU"), nodules, label_map, lesion_map_of(numbers), lungs)
