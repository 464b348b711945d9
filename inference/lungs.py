"""A classical lung mask for CT: air inside the body, closed so that nodules at the wall stay in."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from inference.body import coarser_steps, finer, tissue
from inference.errors import UnsuitableVolume
from inference.volume import Volume

Mask = npt.NDArray[np.bool_]

AIR_HU = -400
SMALLEST_LUNG_MM3 = 100_000.0
CLOSING_MM = 20.0
"""Keeps nodules of up to about 2 cm at the wall; wider would take in more of the hilum and its vessels."""


def lung_mask(volume: Volume) -> Mask:
    """Voxels (slice, row, column) of the lungs, including what lies in them or at their wall.

    Works on a coarser in-plane grid, so borders are exact to about 2 mm.
    Raises UnsuitableVolume when the volume is not CT or shows no lungs.
    """
    if volume.intensity_unit != "HU":
        raise UnsuitableVolume(f"a lung mask needs Hounsfield units, not {volume.intensity_unit}")
    row_step, column_step = coarser_steps(volume)
    coarse = volume.voxels[:, ::row_step, ::column_step]
    voxel_mm3 = volume.voxel_volume_mm3 * row_step * column_step
    air = np.stack([_air_inside_body(image) for image in coarse])
    lungs = _large_components(air, voxel_mm3)
    if not lungs.any():
        raise UnsuitableVolume(
            f"no lungs found: no air space above {SMALLEST_LUNG_MM3 / 1000:.0f} ml inside the body; "
            "this model needs a CT of the chest"
        )
    return finer(_close(lungs, volume.spacing_mm[1] * row_step), volume)


def _air_inside_body(image: npt.NDArray[Any]) -> Mask:
    """Air (row, column) enclosed by the largest piece of tissue in one slice."""
    pieces = cc3d.largest_k(tissue(image), k=1, connectivity=8, binary_image=True)
    body = ndimage.binary_fill_holes(pieces)
    inside: Mask = body & (image < AIR_HU)
    return inside


def _large_components(air: Mask, voxel_mm3: float) -> Mask:
    labels = cc3d.connected_components(air, connectivity=6)
    sizes_mm3 = np.bincount(labels.ravel()) * voxel_mm3
    keep = sizes_mm3 >= max(SMALLEST_LUNG_MM3, 0.2 * sizes_mm3[1:].max(initial=0.0))
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def _close(mask: Mask, pixel_mm: float) -> Mask:
    """Close gaps of up to `CLOSING_MM` in each slice and fill what is enclosed."""
    reach = max(1, round(CLOSING_MM / 2 / pixel_mm))
    padded = np.pad(mask, ((0, 0), (reach, reach), (reach, reach)))
    steps = ndimage.generate_binary_structure(2, 1)
    disc = ndimage.iterate_structure(steps, reach)
    closed = [ndimage.binary_fill_holes(ndimage.binary_closing(plane, disc)) for plane in padded]
    return np.stack(closed)[:, reach:-reach, reach:-reach]
