"""How good a segmenter is: cases with truth, and whole scans."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import cc3d
import numpy as np
import numpy.typing as npt

from inference.engine import Model
from inference.labelmap import Label, LesionMap
from inference.lesions import decide
from inference.predict import segment
from inference.preprocess import prepare
from inference.volume import Volume
from training.cases import LoadedCase, Mask
from training.errors import DataError
from training.metrics import Spacing, agreement, dice
from training.results import CaseResult, DistanceUnit, Evaluation, LabelResult

Finder = Callable[[Volume], npt.NDArray[np.uint8]]
"""Gives the label numbers (slice, row, column) that it finds in a volume, on the volume's own grid."""

TOLERANCES: dict[DistanceUnit, float] = {"mm": 1.0, "px": 2.0}
"""Of the surface Dice, where the caller names none."""


def model_finder(model: Model, whole: bool = False) -> Finder:
    """What `model` finds, either by the node's whole path or (crops) all of it but the region.

    A crop shows no whole lungs, so they cannot be looked for.
    """

    def find(volume: Volume) -> npt.NDArray[np.uint8]:
        return label_numbers(segment(volume, model) if whole else find_in_crop(model, volume))

    return find


def label_numbers(lesions: LesionMap) -> npt.NDArray[np.uint8]:
    """The label number of each voxel (slice, row, column), 0 outside of lesions."""
    numbers = np.array([0, *(lesion.label.number for lesion in lesions.lesions)], np.uint8)
    found: npt.NDArray[np.uint8] = numbers[lesions.values]
    return found


def find_in_crop(model: Model, volume: Volume) -> LesionMap:
    """Everything of `inference.predict.segment` but the region."""
    card = model.bundle.card
    image = prepare(volume, card.preprocessing)
    return decide(model.probabilities(image), image, volume, card)


def evaluate(
    finder: Finder,
    cases: Iterable[LoadedCase],
    labels: Sequence[Label],
    tick: Callable[[], None] = lambda: None,
    tolerance: float | None = None,
) -> Evaluation:
    """Evaluate `labels` in every case; `tick` is called after each. Other label numbers are let be.

    `tolerance` of the surface Dice is in the unit of the distances; None takes it from `TOLERANCES`.
    Raises DataError when there is no case, or some have distances in mm and others in pixels.
    """
    tolerances = TOLERANCES if tolerance is None else dict.fromkeys(TOLERANCES, tolerance)
    results: list[CaseResult] = []
    unit: DistanceUnit | None = None
    for loaded in cases:
        spacing, own_unit = spacing_of(loaded)
        if unit not in (None, own_unit):
            raise DataError(
                f"case {loaded.case.name} has distances in {own_unit}, those before it in {unit}: "
                "evaluate them apart"
            )
        unit = own_unit
        results.append(evaluate_case(finder, loaded, labels, spacing, tolerances[unit]))
        tick()
    if unit is None:
        raise DataError("there is no case to evaluate: choose a split that has some")
    return Evaluation(tuple(results), tuple(label.name for label in labels), unit, tolerances[unit])


def mean_dice(finder: Finder, cases: Iterable[LoadedCase], labels: Sequence[Label]) -> float:
    """`evaluate(...).mean_dice()` without the distances, which take most of the time."""
    return fmean(value for loaded in cases for value in label_dice(finder(loaded.volume), loaded, labels))


def label_dice(found: npt.NDArray[np.uint8], loaded: LoadedCase, labels: Sequence[Label]) -> list[float]:
    """Dice of each label in one case, by the label numbers `found` on its grid."""
    values = []
    for label in labels:
        here, truth = (mask == label.number for mask in (found, loaded.truth))
        values.append(dice(here & ~loaded.ignored, truth & ~loaded.ignored))
    return values


def spacing_of(loaded: LoadedCase) -> tuple[Spacing, DistanceUnit]:
    """Spacing (slice, row, column) for distances, in mm, or in pixels where their size is not known.

    Raises DataError where pixels have a size, but the distance between several slices is not known.
    """
    volume = loaded.volume
    if volume.has_geometry:
        return volume.spacing_mm, "mm"
    if volume.in_plane_spacing_mm is None:
        return (1.0, 1.0, 1.0), "px"
    if volume.shape[0] > 1:
        raise DataError(
            f"case {loaded.case.name} has {volume.shape[0]} slices with no known distance between them: "
            "make each slice a case"
        )
    return (1.0, *volume.in_plane_spacing_mm), "mm"


def evaluate_case(
    finder: Finder, loaded: LoadedCase, labels: Sequence[Label], spacing: Spacing, tolerance: float
) -> CaseResult:
    """Segment one case and compare every label. Raises ValueError when the finder changed the grid."""
    start = time.perf_counter()
    found = finder(loaded.volume)
    seconds = time.perf_counter() - start
    if found.shape != loaded.truth.shape:
        raise ValueError(f"case {loaded.case.name}: found {found.shape}, truth {loaded.truth.shape}")
    results = []
    for label in labels:
        here, truth = found == label.number, loaded.mask(label.number) & ~loaded.ignored
        counts: tuple[int | None, int | None, int | None] = (None, None, None)
        if label.kind == "lesion":
            counts = count_hits(here, truth, truth | loaded.ignored)
        compared = agreement(here & ~loaded.ignored, truth, spacing, tolerance)
        results.append(LabelResult(label.number, compared, *counts))
    case = loaded.case
    return CaseResult(case.name, case.group, case.stratum, tuple(results), seconds)


def count_hits(found: Mask, truth: Mask, excused: Mask | None = None) -> tuple[int, int, int]:
    """Lesions in `truth`, those that `found` touches, and findings that touch nothing `excused`.

    Both masks (slice, row, column) are counted in 26-connected pieces.
    """
    lesions = cc3d.connected_components(truth, connectivity=26)
    findings = cc3d.connected_components(found, connectivity=26)
    n_hit = len(set(np.unique(lesions[found & truth])) - {0})
    touching = set(np.unique(findings[found & (truth if excused is None else excused)])) - {0}
    return int(lesions.max()), n_hit, int(findings.max()) - len(touching)


@dataclass(frozen=True)
class ScanResult:
    """One whole scan. Without truth only `n_findings` is known."""

    scan: str
    n_slices: int
    slice_mm: float
    n_findings: int
    n_lesions: int | None = None
    n_hit: int | None = None
    n_false: int | None = None
    dice: float | None = None
    """Over everything found in the scan."""
    dice_of_hits: float | None = None
    """Over the findings that touch a lesion."""


def evaluate_scan(
    model: Model, name: str, volume: Volume, truth: Mask | None
) -> tuple[ScanResult, LesionMap]:
    """Run the node's whole path on a scan and compare it with `truth` (slice, row, column)."""
    lesions = segment(volume, model)
    result = ScanResult(name, volume.shape[0], volume.spacing_mm[0], len(lesions.lesions))
    if truth is None:
        return result, lesions
    found = lesions.values > 0
    n_lesions, n_hit, n_false = count_hits(found, truth)
    hitting = np.isin(lesions.values, list(set(np.unique(lesions.values[truth])) - {0}))
    return replace(
        result,
        n_lesions=n_lesions,
        n_hit=n_hit,
        n_false=n_false,
        dice=agreement(found, truth, volume.spacing_mm).dice,
        dice_of_hits=agreement(hitting, truth, volume.spacing_mm).dice,
    ), lesions
