"""Crops of brain MR with the two parts of the hippocampus (Medical Segmentation Decathlon, task 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.cases import Case, LoadedCase
from training.datasets.files import read_nifti, refuse_other_grid, to_truth, to_volume
from training.datasets.manifest import read_manifest, refuse_contradictions

LABELS = (1, 2)
"""Anterior and posterior hippocampus."""


@dataclass(frozen=True)
class Hippocampus:
    """A folder with `manifest.csv` (columns case, subject, split), `images/` and `labels/` in NIfTI.

    A group is a subject: most have two files, one for each side. Intensities have a scale of their
    own in each file.
    """

    folder: Path

    def cases(self) -> list[Case]:
        """Every volume; raises DataError when the manifest is missing or contradicts itself."""
        rows = read_manifest(self.folder, ("case", "subject", "split"))
        cases = [Case(row["case"], row["subject"], row.split()) for row in rows]
        refuse_contradictions(self.folder, cases)
        return cases

    def files(self, case: Case) -> list[Path]:
        """The image and its labels."""
        return [self.folder / part / f"{case.name}.nii.gz" for part in ("images", "labels")]

    def load(self, case: Case) -> LoadedCase:
        """One volume with labels 1 and 2; raises DataError when its files do not fit."""
        image, labels = self.files(case)
        voxels, affine = read_nifti(image)
        values, labels_affine = read_nifti(labels)
        refuse_other_grid(labels, labels_affine, image, affine)
        volume = to_volume(image, voxels, affine, "arbitrary")
        truth = to_truth(labels, values, volume.shape, LABELS)
        return LoadedCase(case, volume, truth, np.zeros(volume.shape, np.bool_))
