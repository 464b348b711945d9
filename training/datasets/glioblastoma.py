"""Contrast-enhanced T1 brain MR of glioblastoma at two dates, with tumour masks (Brain-Tumor-Progression)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from training.cases import Case, LoadedCase
from training.datasets.files import read_nifti, refuse_other_grid, to_truth, to_volume
from training.datasets.manifest import Row, by_name, read_manifest, refuse_contradictions
from training.errors import DataError

COLUMNS = ("patient", "timepoint", "image", "mask", "split", "geometry_known")


@dataclass(frozen=True)
class Glioblastoma:
    """A folder with `manifest.csv` and NIfTI images and masks; a group is a patient.

    A case is one date, named such as "PGBM-006-t2". Where the manifest says geometry_known = no,
    the affine of the file is a placeholder of 1 mm: such a volume is loaded with it, so distances
    and volumes of these cases count voxels and are no millimetres. The stratum is then "voxels",
    else "millimetres".
    """

    folder: Path

    def cases(self) -> list[Case]:
        """Every examination; raises DataError when the manifest is missing or contradicts itself."""
        cases = [Case(name, row["patient"], row.split(), _stratum(row)) for name, row in self._rows.items()]
        refuse_contradictions(self.folder, cases)
        return cases

    def files(self, case: Case) -> list[Path]:
        """The image and its mask."""
        try:
            row = self._rows[case.name]
        except KeyError as error:
            raise DataError(f"{self.folder} has no examination {case.name}") from error
        return [self.folder / row["image"], self.folder / row["mask"]]

    def load(self, case: Case) -> LoadedCase:
        """One examination; raises DataError when its files are missing or do not fit."""
        image, mask = self.files(case)
        voxels, affine = read_nifti(image)
        values, mask_affine = read_nifti(mask)
        refuse_other_grid(mask, mask_affine, image, affine)
        volume = to_volume(image, voxels, affine, "arbitrary")
        truth = to_truth(mask, values, volume.shape, (1,))
        return LoadedCase(case, volume, truth, np.zeros(volume.shape, np.bool_))

    @cached_property
    def _rows(self) -> dict[str, Row]:
        rows = read_manifest(self.folder, COLUMNS)
        return by_name(rows, lambda row: f"{row['patient']}-t{row['timepoint']}")


def _stratum(row: Row) -> str:
    return "millimetres" if row["geometry_known"] == "yes" else "voxels"
