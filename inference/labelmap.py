"""What a model says about every voxel, and the single lesions found in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from inference.codes import Code

Numbers = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


def numbers_in(values: npt.NDArray[np.unsignedinteger]) -> set[int]:
    """The numbers (slice, row, column), other than 0, that occur; plane by plane, as each fits a cache."""
    found: set[int] = set()
    for plane in values:
        inside = plane[plane > 0]
        if inside.size:
            found.update(np.flatnonzero(np.bincount(inside)).tolist())
    return found


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
        found = numbers_in(self.values)
        if found - known:
            raise ValueError(f"label map holds values without a label: {sorted(found - known)}")


@dataclass(frozen=True)
class Lesion:
    """One finding: `number` is its value in the lesion map and its segment number in the SEG."""

    number: int
    label: Label
    box: tuple[slice, slice, slice]
    """Smallest box (slice, row, column) that holds every voxel of the lesion."""
    layer: int = 0
    """Layer of the lesion map that it lies in."""


@dataclass(frozen=True, eq=False)
class LesionMap:
    """`layers` of numbers (slice, row, column) uint16: 0 or the number of a lesion; numbers run from 1.

    Lesions of one layer have no voxel in common, those of different layers may: a model whose labels
    overlap gives a layer for each label, any other a single one.

    Raises ValueError when numbers, layers and lesions do not agree.
    """

    layers: tuple[Numbers, ...]
    lesions: tuple[Lesion, ...]

    def __post_init__(self) -> None:
        shapes = {layer.shape for layer in self.layers}
        if len(shapes) != 1 or any(x.ndim != 3 or x.dtype != np.uint16 for x in self.layers):
            raise ValueError("layers must be uint16 (slice, row, column), all of one shape")
        numbers = [lesion.number for lesion in self.lesions]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"lesions must be numbered 1..n in order, got {numbers}")
        for index, layer in enumerate(self.layers):
            expected = {lesion.number for lesion in self.lesions if lesion.layer == index}
            found = numbers_in(layer)
            if found != expected:
                raise ValueError(f"layer {index} holds {sorted(found)}, its lesions are {sorted(expected)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns."""
        slices, rows, columns = self.layers[0].shape
        return slices, rows, columns

    @property
    def values(self) -> Numbers:
        """The numbers of all lesions in one grid; raises ValueError where labels may overlap."""
        if len(self.layers) > 1:
            raise ValueError("the labels of this model may overlap, so a voxel has no single number")
        return self.layers[0]

    @property
    def occupied(self) -> Mask:
        """For each slice whether there is a lesion in it."""
        found: Mask = np.any([layer.any(axis=(1, 2)) for layer in self.layers], axis=0)
        return found

    def mask(self, lesion: Lesion) -> Mask:
        """Voxels of one lesion within its box."""
        inside: Mask = self.layers[lesion.layer][lesion.box] == lesion.number
        return inside

    def plane(self, number: int, slice_index: int) -> Mask:
        """Pixels (row, column) of one lesion in one whole slice."""
        shown: Mask = self.layers[self.lesions[number - 1].layer][slice_index] == number
        return shown


def layered(maps: Sequence[LesionMap]) -> LesionMap:
    """Lesion maps of one grid laid over each other; the lesions are numbered anew, in their order."""
    layers: list[Numbers] = []
    lesions: list[Lesion] = []
    for one in maps:
        before = len(lesions)
        for values in one.layers:
            layers.append(np.where(values > 0, values + np.uint16(before), np.uint16(0)))
        first = len(layers) - len(one.layers)
        lesions += [
            replace(lesion, number=before + lesion.number, layer=first + lesion.layer)
            for lesion in one.lesions
        ]
    return LesionMap(tuple(layers), tuple(lesions))
