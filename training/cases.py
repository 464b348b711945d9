"""A case: one image with its truth, and the split it belongs to.

Every data set, whatever its files look like, comes in as these types; see `training/datasets/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from inference.volume import Volume
from training.errors import DataError

Split = Literal["train", "val", "test"]
Mask = npt.NDArray[np.bool_]
Truth = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """One image of a data set.

    `group` is what a split must never divide: the patient, the subject, or images that nearly equal
    each other. `stratum` names a kind of case that is also reported on its own ("benign", "normal").
    """

    name: str
    group: str
    split: Split
    stratum: str = ""


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """Voxels and truth on one grid (slice, row, column).

    `truth` holds label numbers, 0 for background. `ignored` voxels count neither way, in training
    and in evaluation. Raises DataError when the grids differ.
    """

    case: Case
    volume: Volume
    truth: Truth
    ignored: Mask

    def __post_init__(self) -> None:
        if not self.volume.shape == self.truth.shape == self.ignored.shape:
            raise DataError(
                f"case {self.case.name}: image {self.volume.shape}, truth {self.truth.shape} and ignored "
                f"voxels {self.ignored.shape} differ; they must lie on one grid"
            )
        if self.truth.dtype != np.uint8 or self.ignored.dtype != np.bool_:
            raise DataError(f"case {self.case.name}: truth must be uint8 and ignored bool")

    def mask(self, label: int) -> Mask:
        """Where the truth is `label`."""
        inside: Mask = self.truth == label
        return inside


class DataSet(Protocol):
    """A folder of cases in some layout."""

    @property
    def folder(self) -> Path:
        """Where the files lie."""

    def cases(self) -> list[Case]:
        """Every case; raises DataError when the folder is not laid out as expected."""

    def load(self, case: Case) -> LoadedCase:
        """The voxels of one case; raises DataError when its files are missing or do not fit."""

    def files(self, case: Case) -> list[Path]:
        """The files that `load` reads, for the digest of the data."""


def of_split(cases: Iterable[Case], split: Split) -> list[Case]:
    """The cases of one split; raises DataError when there are none."""
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        raise DataError(f"the data set has no case in split {split!r}")
    return chosen


def digest(data: DataSet, cases: Sequence[Case]) -> str:
    """SHA-256 over names, splits and files of `cases`: two runs with one digest saw the same data.

    Raises DataError when a file is missing.
    """
    total = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.name):
        total.update(f"{case.name}\0{case.group}\0{case.split}\n".encode())
        for path in data.files(case):
            name = path.relative_to(data.folder).as_posix()
            total.update(f"{name}\0{_digest_of_file(path, case)}\n".encode())
    return total.hexdigest()


def _digest_of_file(path: Path, case: Case) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"case {case.name}: {path} cannot be read ({error.strerror}); fetch it again"
        ) from error
