"""Single slices of contrast-enhanced T1 brain MR, each with a tumour (Cheng's brain tumour data set)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from training.cases import Case, LoadedCase, Split
from training.datasets.files import read_grey_png, read_mask_png, to_truth, to_volume
from training.datasets.manifest import Row, by_name, read_manifest, refuse_contradictions
from training.errors import DataError

PLANES = ("axial", "coronal", "sagittal")
OTHER_ORIENTATION = "orientation_"
"""Begins the split of slices that are no part of train, val or test."""
COLUMNS = ("image", "mask", "tumour", "plane", "split", "nominal_pixel_mm")


@dataclass(frozen=True)
class BrainSlices:
    """A folder with `manifest.csv`, `images/` and `masks/` in PNG; only slices in `planes` are cases.

    Grey values were stretched per slice. The pixel size is nominal, and no slice has a known place
    in the patient, so volumes have one slice and no affine. A group is a run of neighbouring slices
    that look alike, in place of the patient, whom the set does not name; the stratum is the kind of
    tumour. Coronal and sagittal slices belong to split "test": they only show what a model does
    with an orientation it was not made for. Nothing tells their patients apart, so the slices of
    one plane are one group.
    """

    folder: Path
    planes: tuple[str, ...] = ("axial",)

    def __post_init__(self) -> None:
        unknown = [plane for plane in self.planes if plane not in PLANES]
        if unknown or not self.planes:
            raise DataError(f"planes are {self.planes!r}; give one or more of {', '.join(PLANES)}")

    def cases(self) -> list[Case]:
        """Every slice in `planes`; raises DataError when the manifest is missing or contradicts itself."""
        cases = [
            Case(name, row.get("patient_proxy") or row["split"], _split(row), row["tumour"])
            for name, row in self._rows.items()
        ]
        refuse_contradictions(self.folder, cases)
        return cases

    def files(self, case: Case) -> list[Path]:
        """The slice and its mask."""
        row = self._row(case)
        return [self.folder / row["image"], self.folder / row["mask"]]

    def load(self, case: Case) -> LoadedCase:
        """One slice as a volume of one slice; raises DataError when its files do not fit."""
        image, mask = self.files(case)
        pixel_mm = self._row(case).number("nominal_pixel_mm")
        volume = to_volume(image, read_grey_png(image), None, "arbitrary", (pixel_mm, pixel_mm))
        truth = to_truth(mask, read_mask_png(mask), volume.shape, (1,))
        return LoadedCase(case, volume, truth, np.zeros(volume.shape, np.bool_))

    @cached_property
    def _rows(self) -> dict[str, Row]:
        rows = [row for row in read_manifest(self.folder, COLUMNS) if row["plane"] in self.planes]
        return by_name(rows, lambda row: Path(row["image"]).stem)

    def _row(self, case: Case) -> Row:
        try:
            return self._rows[case.name]
        except KeyError as error:
            raise DataError(f"{self.folder} has no slice {case.name} in {', '.join(self.planes)}") from error


def _split(row: Row) -> Split:
    return "test" if row["split"].startswith(OTHER_ORIENTATION) else row.split()
