"""The body in a CT: tissue with all that it encloses. What lies beside it, such as air, holds no lesion."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from inference.errors import UnsuitableVolume
from inference.volume import Volume

Mask = npt.NDArray[np.bool_]

WORKING_PIXEL_MM = 2.0
TISSUE_HU = -300
SMALLEST_PART_MM2 = 500.0
"""An arm is larger; wires and blankets are smaller."""


def body_mask(volume: Volume) -> Mask:
    """Voxels (slice, row, column) of the body, limbs and what touches it included.

    Works on a coarser in-plane grid, so borders are exact to about 2 mm.
    Raises UnsuitableVolume when the volume is not CT or shows no tissue.
    """
    if volume.intensity_unit != "HU":
        raise UnsuitableVolume(f"a body mask needs Hounsfield units, not {volume.intensity_unit}")
    row_step, column_step = coarser_steps(volume)
    _, row_mm, column_mm = volume.spacing_mm
    least = SMALLEST_PART_MM2 / (row_mm * row_step * column_mm * column_step)
    body = np.stack([_parts(image, least) for image in volume.voxels[:, ::row_step, ::column_step]])
    if not body.any():
        raise UnsuitableVolume(
            f"no body found: nothing above {TISSUE_HU} HU is larger than {SMALLEST_PART_MM2 / 100:.0f} cm2; "
            "check RescaleIntercept and RescaleSlope of the series"
        )
    return finer(body, volume)


def coarser_steps(volume: Volume) -> tuple[int, int]:
    """Every how many rows and columns are enough."""
    row_step, column_step = (max(1, round(WORKING_PIXEL_MM / spacing)) for spacing in volume.spacing_mm[1:])
    return row_step, column_step


def finer(mask: Mask, volume: Volume) -> Mask:
    """A mask of every few rows and columns (`coarser_steps`) on the grid of the volume."""
    row_step, column_step = coarser_steps(volume)
    _, rows, columns = volume.shape
    return mask.repeat(row_step, axis=1).repeat(column_step, axis=2)[:, :rows, :columns]


def tissue(image: npt.NDArray[Any]) -> Mask:
    """Tissue (row, column) of one slice, without single pixels."""
    found: Mask = ndimage.binary_opening(image > TISSUE_HU)
    return found


def _parts(image: npt.NDArray[Any], least_pixels: float) -> Mask:
    """Pieces of tissue (row, column) of one slice, from a size on, with what they enclose."""
    pieces, _ = ndimage.label(tissue(image), np.ones((3, 3)))
    large = np.bincount(pieces.ravel()) >= least_pixels
    large[0] = False
    filled: Mask = ndimage.binary_fill_holes(large[pieces])
    return filled
