"""Sources with known lesions, for the tests of the encoders: written as files and read back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.encode.context import ResultContext
from dicomnode.encode.results import Result, encode_results
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.study import Series, SourceVolume, read_instance
from dicomnode.volumes import read_volume
from inference.bundle import ModelCard
from inference.codes import Code
from inference.labelmap import Label, Lesion, LesionMap
from inference.measure import LesionMeasurement, measure_lesions
from inference.volume import Volume

SPACING_MM = (3.0, 0.7, 0.8)
"""(slice, row, column): all different, so that a swap shows."""

AXIAL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Directions of (slice, row, column) in LPS, as rows."""
SAGITTAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
CREATED_AT = datetime(2026, 3, 4, 15, 16, 17, tzinfo=UTC)
DIGEST = "c0ffee" + "0" * 58

NODULE = Label(
    number=1,
    name="Lung nodule",
    kind="lesion",
    category=Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure"),
    type=Code(value="27925004", scheme="SCT", meaning="Nodule"),
    site=Code(value="39607008", scheme="SCT", meaning="Lung"),
    rgb=(230, 60, 40),
)

Mask = npt.NDArray[np.bool_]


@dataclass
class Situation:
    """One source with its lesions, measurements and context."""

    lesion_map: LesionMap
    measurements: tuple[LesionMeasurement, ...]
    context: ResultContext
    paths: list[Path] = field(default_factory=list)

    @property
    def source(self) -> SourceVolume:
        return self.context.source

    def encode(self, **changes: Any) -> dict[str, Result]:
        context = replace(self.context, **changes)
        found = encode_results(self.lesion_map, self.measurements, context)
        return {result.kind: result for result in found}


def oblique() -> npt.NDArray[np.float64]:
    """Directions turned by 25 and 15 degrees about two axes."""
    a, b = np.radians(25), np.radians(15)
    about_left = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_superior = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned: npt.NDArray[np.float64] = AXIAL @ (about_superior @ about_left).T
    return turned


def affine(
    directions: npt.NDArray[np.float64], tilt_mm: float = 0.0, spacing_mm: tuple[float, ...] = SPACING_MM
) -> npt.NDArray[np.float64]:
    """Affine of a grid; every slice is shifted by `tilt_mm` along the rows' direction (gantry tilt)."""
    found = np.eye(4)
    found[:3, :3] = (directions * np.array(spacing_mm)[:, None]).T
    found[:3, 0] += tilt_mm * directions[1]
    found[:3, 3] = (-40.0, -55.0, 112.5)
    return found


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    """Voxels within an ellipsoid, all in voxels."""
    at = np.indices(shape).reshape(3, -1).T
    inside: Mask = ((((at - np.array(centre)) / np.array(radii)) ** 2).sum(axis=1) <= 1).reshape(shape)
    return inside


def two_lesions(shape: tuple[int, int, int]) -> list[Mask]:
    """One lesion in the middle and one near the far corner, unlike in every direction."""
    slices, rows, columns = shape
    return [
        ellipsoid(shape, (slices * 0.4, rows * 0.35, columns * 0.4), (2.2, 4.3, 7.6)),
        ellipsoid(shape, (slices * 0.7, rows * 0.75, columns * 0.7), (1.4, 6.2, 3.1)),
    ]


def lesion_map_of(masks: list[Mask], shape: tuple[int, int, int]) -> LesionMap:
    """The masks as lesions 1, 2, ..."""
    values = np.zeros(shape, dtype=np.uint16)
    for number, mask in enumerate(masks, 1):
        values[mask] = number
    lesions = []
    for number in range(1, len(masks) + 1):
        at = np.argwhere(values == number)
        low, high = at.min(axis=0), at.max(axis=0) + 1
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        lesions.append(Lesion(number, NODULE, box))
    return LesionMap(values, tuple(lesions))


def card(**changes: Any) -> ModelCard:
    """A model card as a bundle has it."""
    content: dict[str, Any] = {
        "name": "lung-nodule-unet",
        "version": "1.2.0",
        "title": "Lung nodule U-Net",
        "modality": "CT",
        "intensity_unit": "HU",
        "labels": (NODULE,),
        "preprocessing": {
            "spatial_dims": 2,
            "spacing_mm": (None, None, None),
            "intensity": {"kind": "window", "low": -1000, "high": 400},
            "window_size": (64, 64),
        },
        "postprocessing": {},
        "weights_sha256": "0" * 64,
    }
    return ModelCard.model_validate(content | changes)


def phantom(
    shape: tuple[int, int, int], masks: list[Mask], grid: npt.NDArray[np.float64], unit: str
) -> Volume:
    """Smooth background with every lesion a little brighter than the one before."""
    slices, rows, columns = np.indices(shape)
    voxels = (-850 + 3 * slices + rows + 2 * columns).astype(np.int16)
    for number, mask in enumerate(masks, 1):
        voxels[mask] += 600 + 50 * number
    return Volume(voxels, grid, "HU" if unit == "HU" else "arbitrary")


def situation(
    folder: Path,
    *,
    modality: str = "CT",
    directions: npt.NDArray[np.float64] = AXIAL,
    shape: tuple[int, int, int] = (10, 40, 48),
    masks: list[Mask] | None = None,
    tilt_mm: float = 0.0,
    **attributes: Any,
) -> Situation:
    """A series on disk, read back as the node reads it, with `masks` as lesions."""
    masks = two_lesions(shape) if masks is None else masks
    written = phantom(shape, masks, affine(directions, tilt_mm), "HU" if modality == "CT" else "arbitrary")
    identity = SeriesIdentity(
        modality=modality,
        study_instance_uid="1.2.826.0.1.3680043.8.498.1",
        series_instance_uid="1.2.826.0.1.3680043.8.498.2",
        frame_of_reference_uid="1.2.826.0.1.3680043.8.498.3",
        series_number=3,
        attributes=attributes,
    )
    paths = write_series(written, folder, identity)
    series = Series(tuple(read_instance(path) for path in reversed(paths)))
    return from_source(read_volume(series), masks, paths)


def from_source(source: SourceVolume, masks: list[Mask], paths: list[Path]) -> Situation:
    """Lesions on a volume that was read; `masks` are given in the order of the files.

    The reader sorts along the normal, which may be the other way round than written.
    """
    order = [paths.index(frame.instance.path) for frame in source.frames] if len(paths) > 1 else None
    sorted_masks = masks if order is None else [mask[order] for mask in masks]
    found = lesion_map_of(sorted_masks, source.volume.shape)
    unit = source.volume.intensity_unit
    context = ResultContext(
        source=source,
        card=card(intensity_unit=unit, modality="CT" if unit == "HU" else "MR"),
        model_digest=DIGEST,
        instance_number=1,
        created_at=CREATED_AT,
    )
    return Situation(found, measure_lesions(found, source.volume), context, paths)
