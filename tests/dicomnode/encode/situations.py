"""Sources with known lesions, for the tests of the encoders: written as files and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicomnode.encode.context import Result, ResultContext
from dicomnode.encode.results import encode_results
from dicomnode.encode.writing import to_bytes
from dicomnode.forms import ResultKind
from dicomnode.read.volumes import read_volume
from dicomnode.selftest.volumes import lesion_map_of
from dicomnode.series_writer import SeriesIdentity
from dicomnode.study import Series, SourceVolume
from inference.bundle import ModelCard
from inference.codes import Code
from inference.labelmap import Label, Lesion, LesionMap, layered
from inference.measure import LesionMeasurement, measure_lesions
from inference.volume import IntensityUnit
from tests.phantoms import Orientation, Phantom, phantom, write_enhanced, write_phantom
from tests.phantoms.ultrasound import SPACING_MM, ultrasound_phantom, write_loop, write_stills

COARSE_MM = (6.0, 2.0, 3.0)
"""(slice, row, column): all different, so that a swap shows; small, so that tests are fast."""

CREATED_AT = datetime(2026, 3, 4, 15, 16, 17, tzinfo=UTC)
DIGEST = "c0ffee" + "0" * 58
STUDY_UID, SERIES_UID, FRAME_UID = (f"1.2.826.0.1.3680043.8.498.{n}" for n in (1, 2, 3))

NODULE = Label(
    number=1,
    name="Lung nodule",
    kind="lesion",
    category=Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure"),
    type=Code(value="27925004", scheme="SCT", meaning="Nodule"),
    site=Code(value="39607008", scheme="SCT", meaning="Lung"),
    rgb=(230, 60, 40),
)

ORGAN = Label(
    number=1,
    name="Liver",
    kind="organ",
    category=Code(value="123037004", scheme="SCT", meaning="Anatomical Structure"),
    type=Code(value="10200004", scheme="SCT", meaning="Liver"),
    rgb=(70, 160, 90),
)
TUMOUR = Label(
    number=2,
    name="Tumour",
    kind="lesion",
    category=NODULE.category,
    type=Code(value="108369006", scheme="SCT", meaning="Neoplasm"),
    site=ORGAN.type,
    rgb=NODULE.rgb,
)
"""An organ and the lesions in it: labels that overlap."""

MISSING = (2, 7)
"""Of the sixteen slices of `COARSE_MM`: the largest lesion loses one, none is lost as a whole."""

DRAWN: dict[str, tuple[list[tuple[int, int, int]], ...]] = {
    "straight-line": ([(3, 12, c) for c in range(10, 15)], [(7, 20, 20)]),
    "none-seen": (),
    "cut-off": ([(z, y, x) for z in range(2) for y in range(4) for x in range(6)],),
}
"""Lesions by their (slice, row, column) on an axial CT."""

CT_SERIES: dict[str, dict[str, Any]] = {
    "single-slice": {"spacing_mm": (96.0, 2.0, 3.0)},
    "uneven-tilted-ct": {"missing_slices": MISSING, "tilt_degrees": 18.5},
}


@dataclass(frozen=True)
class Situation:
    """One source with its lesions, measurements and context."""

    lesion_map: LesionMap
    measurements: tuple[LesionMeasurement, ...]
    context: ResultContext

    @property
    def source(self) -> SourceVolume:
        return self.context.source

    def encode(self, **changes: Any) -> dict[ResultKind, Result]:
        context = replace(self.context, **changes)
        found = encode_results(self.lesion_map, self.measurements, context)
        return {result.kind: result for result in found}


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


def identity(modality: str = "CT", **attributes: Any) -> SeriesIdentity:
    """A series with fixed UIDs; `attributes` are set on every instance."""
    return SeriesIdentity(
        modality=modality,
        study_instance_uid=STUDY_UID,
        series_instance_uid=SERIES_UID,
        frame_of_reference_uid=FRAME_UID,
        series_number=3,
        attributes=attributes,
    )


def written(
    folder: Path,
    orientation: Orientation = "axial",
    *,
    modality: str = "CT",
    spacing_mm: tuple[float, float, float] = COARSE_MM,
    attributes: dict[str, Any] | None = None,
    **options: Any,
) -> Situation:
    """The phantom patient as a series of single images on disk, read back as the node reads it."""
    unit: IntensityUnit = "HU" if modality == "CT" else "arbitrary"
    truth = phantom(orientation, spacing_mm, intensity_unit=unit, **options)
    return seen(write_phantom(truth, folder, identity(modality, **attributes or {})), truth)


def seen(series: Series, truth: Phantom) -> Situation:
    """The lesions of `truth` at their places in the patient, on the grid that was read."""
    source = read_volume(series)
    places = source.volume.to_lps_mm(np.moveaxis(np.indices(source.volume.shape), 0, -1))
    numbers = np.zeros(source.volume.shape, np.uint16)
    for number, solid in enumerate(truth.shapes, start=1):
        numbers[solid.contains(places)] = number
    return with_lesions(source, numbers)


def with_lesions(source: SourceVolume, numbers: npt.NDArray[Any]) -> Situation:
    """`numbers` as lesions of the model's label."""
    plain = lesion_map_of(numbers)
    lesions = tuple(Lesion(lesion.number, NODULE, lesion.box) for lesion in plain.lesions)
    found = LesionMap(plain.layers, lesions)
    unit = source.volume.intensity_unit
    modality = source.series.modality
    context = ResultContext(
        source=source,
        card=card(intensity_unit=unit, modality=modality),
        model_digest=DIGEST,
        instance_number=1,
        created_at=CREATED_AT,
    )
    return Situation(found, measure_lesions(found, source.volume), context)


def in_an_organ(made: Situation) -> Situation:
    """The lesions of a situation as tumours in an organ: labels that overlap."""
    around = ndimage.binary_dilation(made.lesion_map.values > 0, iterations=2)
    maps = []
    for label, plain in ((ORGAN, lesion_map_of(around)), (TUMOUR, made.lesion_map)):
        lesions = tuple(replace(lesion, label=label) for lesion in plain.lesions)
        maps.append(LesionMap(plain.layers, lesions))
    found = layered(maps)
    changed = card(
        intensity_unit=made.source.volume.intensity_unit,
        modality=made.source.series.modality,
        labels=(ORGAN, TUMOUR),
        labels_overlap=True,
    )
    return Situation(found, measure_lesions(found, made.source.volume), replace(made.context, card=changed))


def drawn(folder: Path, *lesions: Sequence[tuple[int, int, int]]) -> Situation:
    """Lesions given as lists of (slice, row, column) on an axial CT without any other."""
    source = written(folder, shapes=()).source
    numbers = np.zeros(source.volume.shape, np.uint16)
    for number, voxels in enumerate(lesions, start=1):
        for voxel in voxels:
            numbers[voxel] = number
    return with_lesions(source, numbers)


def scanned(
    folder: Path,
    kind: Literal["still", "stills", "loop"],
    *,
    spacing_mm: tuple[float, float] | None = SPACING_MM,
    photometric: str = "MONOCHROME2",
    none_seen: bool = False,
) -> Situation:
    """The ultrasound phantom: one image, three images, or a loop of five frames."""
    truth = ultrasound_phantom({"still": 1, "stills": 3, "loop": 5}[kind])
    named = identity("US", BodyPartExamined="BREAST", Laterality="R")
    if kind == "loop":
        series = write_loop(folder, truth.grey, named, spacing_mm, photometric)
        numbers = truth.numbers
    else:
        images = list(truth.grey)
        series = write_stills(folder, images, named, [spacing_mm] * len(images), photometric)
        numbers = each_image_its_own(truth.numbers)
    return with_lesions(read_volume(series), np.zeros_like(numbers) if none_seen else numbers)


def each_image_its_own(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lesions of stills, each of which is another lesion in the next still."""
    found = np.zeros_like(numbers)
    count = 0
    for index, image in enumerate(numbers):
        for number in np.unique(image[image > 0]):
            count += 1
            found[index][image == number] = count
    return found


def situation(name: str, folder: Path) -> Situation:
    """The situation of this name, its images written into `folder`."""
    if name == "oblique-mr":
        return written(folder, "oblique", modality="MR")
    if name == "multi-frame-mr":
        truth = phantom("oblique", COARSE_MM, intensity_unit="arbitrary")
        return seen(write_enhanced(truth.volume, folder / "e.dcm", identity("MR")), truth)
    if name == "still-us":
        return scanned(folder, "still", photometric="RGB")
    if name == "stills-us-in-pixels":
        return scanned(folder, "stills", spacing_mm=None)
    if name.startswith("loop-us"):
        return scanned(folder, "loop", none_seen=name.endswith("none-seen"))
    if name in CT_SERIES:
        return written(folder, **CT_SERIES[name])
    if name in DRAWN:
        return drawn(folder, *DRAWN[name])
    if name == "organ-and-lesions-ct":
        return in_an_organ(written(folder))
    return written(folder, "sagittal")


def saved(made: Situation, folder: Path) -> dict[ResultKind, Path]:
    """The encoded objects as files."""
    paths = {}
    for kind, result in made.encode().items():
        paths[kind] = folder / f"{kind}.dcm"
        paths[kind].write_bytes(to_bytes(result.dataset))
    return paths
