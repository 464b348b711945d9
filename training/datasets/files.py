"""Image files as arrays (slice, row, column); every failure is a DataError that names the file."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from PIL import Image

from inference.volume import Affine, IntensityUnit, Volume, Voxels
from training.cases import Truth
from training.errors import DataError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GREY_MODES = {"1", "L", "I", "I;16", "I;16B"}
"""Pillow's names of PNG images with one channel."""
BINARY_INSIDE = 255
"""What most PNG masks write for the inside."""


def read_nifti(path: Path) -> tuple[npt.NDArray[np.float32], Affine]:
    """Voxels (slice, row, column) and the affine over them in LPS mm.

    NIfTI is RAS with the axes (column, row, slice); it becomes LPS here and nowhere else.
    Raises DataError when the file is missing, damaged or not three-dimensional.
    """
    try:
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
        affine = np.asarray(image.affine, dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise DataError(f"{path} cannot be read as NIfTI ({error}); fetch it again") from error
    if voxels.ndim != 3:
        raise DataError(f"{path} has the shape {voxels.shape}; give one three-dimensional image per file")
    return np.ascontiguousarray(voxels.transpose(2, 1, 0)), to_lps(affine)


def to_lps(affine_ras: Affine) -> Affine:
    """From a NIfTI affine over (column, row, slice) to one over (slice, row, column) in LPS mm."""
    affine: Affine = RAS_TO_LPS @ affine_ras
    return affine[:, [2, 1, 0, 3]]


def read_grey_png(path: Path) -> npt.NDArray[np.float32]:
    """Grey values (1, row, column); raises DataError when the file is missing, damaged or in colour."""
    return _read_png(path).astype(np.float32)


def read_mask_png(path: Path) -> Voxels:
    """Label numbers (1, row, column); in a mask of 0 and 255 alone, 255 stands for label 1.

    Raises DataError as `read_grey_png` does.
    """
    values = _read_png(path)
    if np.isin(values, (0, BINARY_INSIDE)).all():
        return values // BINARY_INSIDE
    return values


def to_truth(
    path: Path, values: Voxels, shape: tuple[int, int, int], labels: Collection[int] | None = None
) -> Truth:
    """Mask values as label numbers on a grid of `shape`; `labels` names the only ones allowed.

    Raises DataError when the mask has another shape, or values that are no label.
    """
    if values.shape != shape:
        raise DataError(
            f"{path} has the shape {values.shape}, its image {shape}; give a mask of the same size"
        )
    found = np.unique(values)
    allowed = range(256) if labels is None else {0, *labels}
    wrong = [value for value in found.tolist() if value not in allowed]
    if wrong:
        known = "whole numbers from 0 to 255" if labels is None else ", ".join(map(str, sorted(allowed)))
        raise DataError(f"{path} holds the value {wrong[0]:g}, which is no label; allowed: {known}")
    return values.astype(np.uint8)


def refuse_other_grid(mask: Path, affine: Affine, image: Path, image_affine: Affine) -> None:
    """Raises DataError when the affines of a mask and its image differ."""
    if not np.allclose(affine, image_affine, atol=1e-3):
        raise DataError(f"{mask} and {image} lie on different grids; resample the mask to its image")


def to_volume(
    path: Path,
    voxels: Voxels,
    affine: Affine | None,
    unit: IntensityUnit,
    spacing_mm: tuple[float, float] | None = None,
) -> Volume:
    """The volume of a file; raises DataError when its geometry is impossible."""
    try:
        return Volume(voxels, affine, unit, spacing_mm)
    except ValueError as error:
        raise DataError(f"{path} is no usable volume: {error}") from error


def _read_png(path: Path) -> npt.NDArray[Any]:
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.asarray(image.convert("L") if mode == "1" else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as PNG ({error}); fetch it again") from error
    if mode not in GREY_MODES:
        raise DataError(f"{path} has the colour mode {mode}; convert it to one grey channel")
    return values[None]
