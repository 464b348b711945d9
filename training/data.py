"""Cases of a data set: what the manifest says, the split by patient, voxels and truth on one grid.

A data folder holds `manifest.csv` (columns case, split, patient) and per case `ct.nii.gz`
(intensities) and `raters.nii.gz` (how many readers enclosed each voxel). NIfTI is RAS with the axes
(column, row, slice); it becomes LPS (slice, row, column) here and nowhere else.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cc3d
import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError

from inference.volume import IntensityUnit, Volume
from training.errors import DataError

Split = Literal["train", "val", "test"]
Mask = npt.NDArray[np.bool_]

MANIFEST = "manifest.csv"
IMAGE = "ct.nii.gz"
RATERS = "raters.nii.gz"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Case:
    """One line of the manifest."""

    name: str
    patient: str
    split: Split


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """Voxels and truth (slice, row, column) of one case.

    `lesion` is what enough readers enclosed. `doubtful` are whole regions that some reader, but
    nowhere enough of them, enclosed: training counts them neither way.
    """

    case: Case
    volume: Volume
    lesion: Mask
    doubtful: Mask


def read_manifest(folder: Path) -> list[Case]:
    """All cases of a data folder.

    Raises DataError when the manifest is missing or malformed, names a case twice, or puts one
    patient into two splits.
    """
    path = folder / MANIFEST
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): give the data folder with --data"
        ) from error
    cases = [_case(path, number, row) for number, row in enumerate(rows, start=2)]
    if not cases:
        raise DataError(f"{path} lists no cases")
    if len({case.name for case in cases}) < len(cases):
        raise DataError(f"{path} lists a case twice")
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.patient, set()).add(case.split)
    torn = sorted(patient for patient, found in splits.items() if len(found) > 1)
    if torn:
        raise DataError(f"{path} puts patients into more than one split: {', '.join(torn)}")
    return cases


def of_split(cases: list[Case], split: Split) -> list[Case]:
    """The cases of one split; raises DataError when there are none."""
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        raise DataError(f"the manifest has no case in split {split!r}")
    return chosen


def load_case(folder: Path, case: Case, unit: IntensityUnit, raters_needed: int) -> LoadedCase:
    """Read one case; raises DataError when its files are missing or do not fit each other."""
    image, affine_ras = _read_nifti(folder / case.name / IMAGE)
    raters, raters_affine = _read_nifti(folder / case.name / RATERS)
    if image.shape != raters.shape or not np.allclose(affine_ras, raters_affine, atol=1e-3):
        raise DataError(f"{folder / case.name}: {IMAGE} and {RATERS} lie on different grids")
    volume = Volume(_sliced(image).astype(np.int16), to_lps(affine_ras), unit)
    counts = _sliced(raters)
    lesion = counts >= raters_needed
    return LoadedCase(case, volume, lesion, _doubtful(counts > 0, lesion))


def to_lps(affine_ras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From a NIfTI affine over (column, row, slice) to one over (slice, row, column) in LPS mm."""
    affine: npt.NDArray[np.float64] = RAS_TO_LPS @ affine_ras
    return affine[:, [2, 1, 0, 3]]


def digest(folder: Path, cases: list[Case]) -> str:
    """SHA-256 over the names and contents of the manifest and of every file of `cases`."""
    total = hashlib.sha256()
    names = [MANIFEST, *(f"{case.name}/{file}" for case in cases for file in (IMAGE, RATERS))]
    for name in sorted(names):
        total.update(f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _case(path: Path, line: int, row: dict[str, str]) -> Case:
    missing = [key for key in ("case", "split", "patient") if not row.get(key)]
    if missing:
        raise DataError(f"{path} line {line} lacks {', '.join(missing)}")
    for split in get_args(Split):
        if row["split"] == split:
            return Case(row["case"], row["patient"], split)
    raise DataError(f"{path} line {line}: split {row['split']!r} is none of {', '.join(get_args(Split))}")


def _read_nifti(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    try:
        image = nibabel.load(path)
        return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)
    except (OSError, EOFError, ImageFileError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _sliced(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """From (column, row, slice) to (slice, row, column)."""
    return np.ascontiguousarray(voxels.transpose(2, 1, 0))


def _doubtful(touched: Mask, lesion: Mask) -> Mask:
    """The components of `touched` that hold no voxel of `lesion`."""
    components = cc3d.connected_components(touched, connectivity=26)
    certain = np.unique(components[lesion])
    found: Mask = touched & ~np.isin(components, certain)
    return found
