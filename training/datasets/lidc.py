"""Crops of chest CT around lung nodules, with a count of the readers who enclosed each voxel (LIDC-IDRI)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np

from training.cases import Case, LoadedCase, Mask
from training.datasets.files import read_nifti, refuse_other_grid, to_truth, to_volume
from training.datasets.manifest import read_manifest, refuse_contradictions
from training.errors import DataError

IMAGE = "ct.nii.gz"
RATERS = "raters.nii.gz"
MOST_RATERS = 4


@dataclass(frozen=True)
class LidcCrops:
    """A folder with `manifest.csv` (columns case, split, patient) and one folder per nodule.

    `ct.nii.gz` holds Hounsfield units, `raters.nii.gz` the number of readers, 0 to 4. Label 1 is
    what at least `raters_needed` readers enclosed. Ignored are whole regions that some reader, but
    nowhere enough of them, enclosed. A group is a patient.
    """

    folder: Path
    raters_needed: int = 2

    def __post_init__(self) -> None:
        if self.raters_needed not in range(1, MOST_RATERS + 1):
            raise DataError(f"raters_needed is {self.raters_needed!r}; give a number from 1 to {MOST_RATERS}")

    def cases(self) -> list[Case]:
        """Every nodule; raises DataError when the manifest is missing or contradicts itself."""
        rows = read_manifest(self.folder, ("case", "split", "patient"))
        cases = [Case(row["case"], row["patient"], row.split()) for row in rows]
        refuse_contradictions(self.folder, cases)
        return cases

    def files(self, case: Case) -> list[Path]:
        """The crop and the count of readers."""
        return [self.folder / case.name / IMAGE, self.folder / case.name / RATERS]

    def load(self, case: Case) -> LoadedCase:
        """One crop in HU as int16; raises DataError when its files are missing or do not fit."""
        image, raters = self.files(case)
        voxels, affine = read_nifti(image)
        counted, counted_affine = read_nifti(raters)
        refuse_other_grid(raters, counted_affine, image, affine)
        volume = to_volume(image, voxels.astype(np.int16), affine, "HU")
        counts = to_truth(raters, counted, volume.shape, range(1, MOST_RATERS + 1))
        lesion = counts >= self.raters_needed
        return LoadedCase(case, volume, lesion.astype(np.uint8), _doubtful(counts > 0, lesion))


def _doubtful(touched: Mask, lesion: Mask) -> Mask:
    """The components of `touched` that hold no voxel of `lesion`."""
    components = cc3d.connected_components(touched, connectivity=26)
    certain = np.unique(components[lesion])
    found: Mask = touched & ~np.isin(components, certain)
    return found
