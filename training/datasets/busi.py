"""Breast ultrasound images with lesion masks (BUSI): benign, malignant and normal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.cases import Case, LoadedCase
from training.datasets.files import read_grey_png, read_mask_png, to_truth, to_volume
from training.datasets.manifest import read_manifest, refuse_contradictions


@dataclass(frozen=True)
class Busi:
    """A folder with `manifest.csv` (columns case, split, cls, group), `images/` and `masks/` in PNG.

    The images have no pixel spacing, so nothing about them is known in millimetres. A group holds
    images that nearly equal each other, for the set names no patients; the stratum is the class.
    The mask of a normal image is empty.
    """

    folder: Path

    def cases(self) -> list[Case]:
        """Every image; raises DataError when the manifest is missing or contradicts itself."""
        rows = read_manifest(self.folder, ("case", "split", "cls", "group"))
        cases = [Case(row["case"], row["group"], row.split(), row["cls"]) for row in rows]
        refuse_contradictions(self.folder, cases)
        return cases

    def files(self, case: Case) -> list[Path]:
        """The image and its mask."""
        return [self.folder / part / f"{case.name}.png" for part in ("images", "masks")]

    def load(self, case: Case) -> LoadedCase:
        """One image as a volume of one slice; raises DataError when its files do not fit."""
        image, mask = self.files(case)
        volume = to_volume(image, read_grey_png(image), None, "grey")
        truth = to_truth(mask, read_mask_png(mask), volume.shape, (1,))
        return LoadedCase(case, volume, truth, np.zeros(volume.shape, np.bool_))
