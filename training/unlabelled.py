"""Folders of images without masks, for pretraining."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from inference.bundle import Preprocessing
from inference.volume import IntensityUnit, Volume
from training.cases import Case, LoadedCase
from training.datasets.dicom_seg import read_series, series_files
from training.datasets.files import read_grey_png, read_nifti, to_volume
from training.errors import DataError
from training.scans import read_nrrd
from training.sources import Source, to_source

NIFTI = (".nii", ".nii.gz")
NRRD = ".nrrd"
PNG = ".png"
DICOM = ".dcm"


def image_files(folder: Path) -> list[Path]:
    """The NIfTI, NRRD and grey PNG files below `folder`, and the folders with a DICOM series (`*.dcm`).

    Raises DataError when there are none.
    """
    below = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    images = [path for path in below if path.name.lower().endswith((*NIFTI, NRRD, PNG))]
    series = sorted({path.parent for path in below if path.name.lower().endswith(DICOM)})
    if not images and not series:
        raise DataError(
            f"{folder} holds no image: give a folder of NIfTI, NRRD or PNG files, or DICOM series (*{DICOM})"
        )
    return images + series


def read_images(paths: Sequence[Path], unit: IntensityUnit, how: Preprocessing) -> list[Source]:
    """Images on the model's grid; raises DataError for one that is damaged or has another unit."""
    return [_read(path, unit, how) for path in paths]


def digest_of_files(so_far: str, paths: Sequence[Path]) -> str:
    """SHA-256 over the digest `so_far` and the files of further images; their folders do not matter."""
    if not paths:
        return so_far
    total = hashlib.sha256(so_far.encode())
    for file in (file for path in paths for file in _files(path)):
        total.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    yield from series_files(path) if path.is_dir() else [path]


def _read(path: Path, unit: IntensityUnit, how: Preprocessing) -> Source:
    volume = _volume(path, unit)
    if volume.intensity_unit != unit:
        raise DataError(
            f"{path} has the unit {volume.intensity_unit!r}, the experiment {unit!r}; leave it out"
        )
    nothing = np.zeros(volume.shape, np.uint8)
    case = Case(path.name, path.name, "train")
    return to_source(LoadedCase(case, volume, nothing, nothing > 0), how, 0)


def _volume(path: Path, unit: IntensityUnit) -> Volume:
    if path.is_dir():
        return read_series(path).volume
    name = path.name.lower()
    if name.endswith(PNG):
        return to_volume(path, read_grey_png(path), None, unit)
    if name.endswith(NRRD):
        return read_nrrd(path, unit)
    voxels, affine = read_nifti(path)
    return to_volume(path, voxels, affine, unit)
