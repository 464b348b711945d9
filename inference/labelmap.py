"""What a model says about every voxel, and the single lesions found in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from inference.codes import Code


class Label(BaseModel):
    """One class that a model segments, with the words that DICOM needs for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1, le=255, description="value in the label map")
    name: str = Field(min_length=1, max_length=48)
    kind: Literal["lesion", "organ"]
    category: Code
    type: Code
    site: Code | None = None
    rgb: tuple[int, int, int] = (255, 0, 0)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """`values` (slice, row, column) uint8 on exactly the grid of its volume; 0 is background.

    Raises ValueError when a value has no label.
    """

    values: npt.NDArray[np.uint8]
    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != np.uint8:
            raise ValueError("values must be uint8 (slice, row, column)")
        known = {label.number for label in self.labels}
        found = set(np.flatnonzero(np.bincount(self.values.ravel())).tolist()) - {0}
        if found - known:
            raise ValueError(f"label map holds values without a label: {sorted(found - known)}")


@dataclass(frozen=True)
class Lesion:
    """One finding: `number` is its value in the lesion map and its segment number in the SEG."""

    number: int
    label: Label
    box: tuple[slice, slice, slice]
    """Smallest box (slice, row, column) that holds every voxel of the lesion."""


@dataclass(frozen=True, eq=False)
class LesionMap:
    """`values` (slice, row, column) uint16: 0 or the number of a lesion; numbers run from 1.

    Raises ValueError when numbers and lesions do not agree.
    """

    values: npt.NDArray[np.uint16]
    lesions: tuple[Lesion, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != np.uint16:
            raise ValueError("values must be uint16 (slice, row, column)")
        numbers = [lesion.number for lesion in self.lesions]
        found = set(np.flatnonzero(np.bincount(self.values.ravel())).tolist()) - {0}
        if numbers != list(range(1, len(numbers) + 1)) or found != set(numbers):
            raise ValueError(f"lesions are numbered {numbers} but the map holds {sorted(found)}")

    def mask(self, lesion: Lesion) -> npt.NDArray[np.bool_]:
        """Voxels of one lesion within its box."""
        inside: npt.NDArray[Any] = self.values[lesion.box] == lesion.number
        return inside
