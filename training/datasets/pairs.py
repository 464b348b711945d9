"""Pairs of image and mask in any of the usual formats, listed in a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import nrrd
import numpy as np

from inference.volume import Affine, IntensityUnit, Volume, Voxels
from training.cases import Case, LoadedCase, Truth
from training.datasets.dicom_seg import read_segmentation, read_series, series_files
from training.datasets.files import (
    read_grey_png,
    read_mask_png,
    read_nifti,
    refuse_other_grid,
    to_truth,
    to_volume,
)
from training.datasets.manifest import Row, by_name, read_manifest, refuse_contradictions
from training.datasets.splits import split_by_group
from training.errors import DataError
from training.scans import read_nrrd

COLUMNS = ("case", "group", "image", "mask")
NIFTI = (".nii", ".nii.gz")
NRRD = ".nrrd"
PNG = ".png"
NRRD_TYPES = {
    "signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t",
    "short", "short int", "signed short", "signed short int", "int16", "int16_t",
}  # fmt: skip
"""Names of the whole-number types of NRRD whose values all fit into int16."""


@dataclass(frozen=True)
class Pairs:
    """A folder with `manifest.csv`: columns case, group, image, mask; optional split, stratum, pixel_mm.

    `image` and `mask` are paths within the folder. An image is NIfTI, NRRD, grey PNG, or a folder
    with the DICOM files of one series; its mask is NIfTI, NRRD or PNG, or for DICOM a Segmentation.
    Mask values are label numbers, 0 for background; a PNG mask of 0 and 255 alone has label 1, and
    segment numbers of a DICOM Segmentation are labels. `pixel_mm` is the size of a PNG's pixels.
    A group is what a split must never divide, such as a patient. Without a column split, groups are
    dealt out by `split_seed`, 70 % train, 15 % val, 15 % test.
    """

    folder: Path
    intensity_unit: IntensityUnit
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.intensity_unit not in get_args(IntensityUnit):
            raise DataError(
                f"intensity_unit is {self.intensity_unit!r}; give one of {', '.join(get_args(IntensityUnit))}"
            )
        if not isinstance(self.split_seed, int) or self.split_seed < 0:
            raise DataError(f"split_seed is {self.split_seed!r}; give a whole number from 0 upwards")

    def cases(self) -> list[Case]:
        """Every pair; raises DataError when the manifest is missing or contradicts itself."""
        rows = self._rows
        dealt = None
        if not any("split" in row.values for row in rows.values()):
            dealt = split_by_group((row["group"] for row in rows.values()), self.split_seed)
        cases = [
            Case(name, row["group"], dealt[row["group"]] if dealt else row.split(), row.get("stratum"))
            for name, row in rows.items()
        ]
        refuse_contradictions(self.folder, cases)
        return cases

    def files(self, case: Case) -> list[Path]:
        """The image, or every file of its series, and the mask."""
        image, mask = self._paths(case)
        return [*(series_files(image) if image.is_dir() else [image]), mask]

    def load(self, case: Case) -> LoadedCase:
        """One pair; raises DataError when its files are missing or do not fit each other."""
        image, mask = self._paths(case)
        if image.is_dir():
            volume, truth = self._load_dicom(image, mask)
        else:
            row = self._rows[case.name]
            volume = _read_image(image, row, self.intensity_unit)
            truth = _read_mask(mask, image, volume)
        return LoadedCase(case, volume, truth, np.zeros(volume.shape, np.bool_))

    def _load_dicom(self, image: Path, mask: Path) -> tuple[Volume, Truth]:
        series = read_series(image)
        unit = series.volume.intensity_unit
        if unit != self.intensity_unit:
            raise DataError(
                f"{image} has the unit {unit!r}, intensity_unit is {self.intensity_unit!r}; make them agree"
            )
        if _ends(mask, (*NIFTI, NRRD, PNG)):
            return series.volume, _read_mask(mask, image, series.volume)
        return series.volume, read_segmentation(mask, series)

    @cached_property
    def _rows(self) -> dict[str, Row]:
        return by_name(read_manifest(self.folder, COLUMNS), lambda row: row["case"])

    def _paths(self, case: Case) -> tuple[Path, Path]:
        if case.name not in self._rows:
            raise DataError(f"{self.folder} has no case {case.name}")
        row = self._rows[case.name]
        return self._inside(row, "image"), self._inside(row, "mask")

    def _inside(self, row: Row, column: str) -> Path:
        name = Path(row[column])
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"{row.where}: {column} {row[column]!r} must be a path within the data folder")
        return self.folder / name


def _read_image(path: Path, row: Row, unit: IntensityUnit) -> Volume:
    pixel_mm = row.number("pixel_mm") if row.get("pixel_mm") else None
    if pixel_mm is not None and not _ends(path, (PNG,)):
        raise DataError(
            f"{row.where}: pixel_mm is for PNG; {path.name} has a spacing of its own: leave it empty"
        )
    if _ends(path, (PNG,)):
        spacing = None if pixel_mm is None else (pixel_mm, pixel_mm)
        return to_volume(path, read_grey_png(path), None, unit, spacing)
    voxels, affine = _read_grid(path)
    return to_volume(path, voxels, affine, unit)


def _read_mask(path: Path, image: Path, volume: Volume) -> Truth:
    if _ends(path, (PNG,)):
        return to_truth(path, read_mask_png(path), volume.shape)
    values, affine = _read_grid(path)
    if volume.affine_lps is not None:
        refuse_other_grid(path, affine, image, volume.affine_lps)
    return to_truth(path, values, volume.shape)


def _read_grid(path: Path) -> tuple[Voxels, Affine]:
    """Voxels (slice, row, column) and LPS affine of a NIfTI or NRRD file."""
    if _ends(path, NIFTI):
        return read_nifti(path)
    if _ends(path, (NRRD,)):
        return _read_whole_numbers(path)
    raise DataError(
        f"{path} is of no known format; give {', '.join((*NIFTI, NRRD, PNG))}, or a folder of DICOM files"
    )


def _read_whole_numbers(path: Path) -> tuple[Voxels, Affine]:
    try:
        kind = str(nrrd.read_header(str(path))["type"])
        if kind not in NRRD_TYPES:
            raise DataError(f"{path} holds {kind} voxels, which int16 cannot hold; convert it to NIfTI")
        volume = read_nrrd(path, "arbitrary")
    except (OSError, KeyError, ValueError, nrrd.NRRDError) as error:
        raise DataError(f"{path} cannot be read as NRRD ({error}); fetch it again") from error
    return volume.voxels, volume.affine


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings)
