"""Whole scans in NRRD, for counting false findings where crops cannot show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import numpy.typing as npt

from inference.volume import IntensityUnit, Volume
from training.cases import Mask
from training.errors import DataError

LPS_NAMES = {"left-posterior-superior", "lps"}


def read_nrrd(path: Path, unit: IntensityUnit) -> Volume:
    """A scan as a volume; NRRD arrays are (column, row, slice).

    Raises DataError when the file cannot be read or its space is not LPS.
    """
    voxels, header = _read(path)
    space = str(header.get("space", "")).lower()
    if space not in LPS_NAMES:
        raise DataError(f"{path} is in space {space or 'unknown'!r}; convert it to left-posterior-superior")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], dtype=np.float64)[::-1].T
    affine[:3, 3] = header["space origin"]
    return Volume(_sliced(voxels).astype(np.int16), affine, unit)


def read_nrrd_mask(path: Path, volume: Volume) -> Mask:
    """The lesions (slice, row, column) of a scan; raises DataError when the grid is not the scan's."""
    voxels, _ = _read(path)
    mask: Mask = _sliced(voxels) > 0
    if mask.shape != volume.shape:
        raise DataError(f"{path} has the shape {mask.shape}, its scan {volume.shape}")
    return mask


def _read(path: Path) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    try:
        voxels, header = nrrd.read(str(path))
    except (OSError, ValueError, nrrd.NRRDError) as error:
        raise DataError(f"{path} cannot be read as NRRD: {error}") from error
    if voxels.ndim != 3:
        raise DataError(f"{path} has {voxels.ndim} axes; a scan has 3")
    return voxels, header


def _sliced(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From (column, row, slice) to (slice, row, column)."""
    return np.ascontiguousarray(voxels.transpose(2, 1, 0))
