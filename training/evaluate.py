"""How good a model is: crops with truth, and whole scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import cc3d
import numpy as np

from inference.engine import Model
from inference.labelmap import LesionMap
from inference.lesions import find_lesions, to_label_map
from inference.predict import segment
from inference.preprocess import prepare
from inference.volume import Volume
from training.data import LoadedCase, Mask
from training.metrics import Agreement, Summary, agreement, summarise


@dataclass(frozen=True)
class CaseResult:
    """One crop: agreement over all its lesions, and lesions counted as pieces."""

    case: str
    agreement: Agreement
    n_lesions: int
    n_hit: int
    """Lesions of the truth that a finding touches."""
    n_false: int
    """Findings that touch neither truth nor a doubtful region."""


@dataclass(frozen=True)
class Evaluation:
    """All cases of a split."""

    cases: tuple[CaseResult, ...]

    def summaries(self) -> dict[str, Summary]:
        """Mean and median per metric."""
        values = [asdict(case.agreement) for case in self.cases]
        return {key: summarise(value[key] for value in values) for key in values[0]}

    def to_plain(self) -> dict[str, Any]:
        """For JSON and for the model card."""
        return {
            "n_cases": len(self.cases),
            **{key: asdict(summary) for key, summary in self.summaries().items()},
            "n_lesions": sum(case.n_lesions for case in self.cases),
            "n_lesions_hit": sum(case.n_hit for case in self.cases),
            "n_false_findings": sum(case.n_false for case in self.cases),
        }


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


def find_in_crop(model: Model, volume: Volume) -> Mask:
    """What `model` finds in a crop: everything of `inference.predict.segment` but the region.

    A crop of 9 cm shows no whole lungs, so they cannot be looked for.
    """
    card = model.bundle.card
    image = prepare(volume, card.preprocessing)
    label_map, certainty = to_label_map(model.probabilities(image), image, card.labels, card.postprocessing)
    found: Mask = find_lesions(label_map, volume, card.postprocessing, None, certainty).values > 0
    return found


def evaluate_case(model: Model, loaded: LoadedCase) -> CaseResult:
    """Find the lesions of one crop and compare them with its truth."""
    found = find_in_crop(model, loaded.volume)
    n_lesions, n_hit, n_false = count_hits(found, loaded.lesion, loaded.lesion | loaded.doubtful)
    result = agreement(found & ~loaded.doubtful, loaded.lesion, loaded.volume.spacing_mm)
    return CaseResult(loaded.case.name, result, n_lesions, n_hit, n_false)


def evaluate(
    model: Model, cases: Iterable[LoadedCase], tick: Callable[[], None] = lambda: None
) -> Evaluation:
    """Evaluate every case; `tick` is called after each."""
    results = []
    for loaded in cases:
        results.append(evaluate_case(model, loaded))
        tick()
    return Evaluation(tuple(results))


def count_hits(found: Mask, truth: Mask, excused: Mask | None = None) -> tuple[int, int, int]:
    """Lesions in `truth`, those that `found` touches, and findings that touch nothing `excused`.

    Both masks (slice, row, column) are counted in 26-connected pieces.
    """
    lesions = cc3d.connected_components(truth, connectivity=26)
    findings = cc3d.connected_components(found, connectivity=26)
    n_hit = len(set(np.unique(lesions[found & truth])) - {0})
    touching = set(np.unique(findings[found & (truth if excused is None else excused)])) - {0}
    return int(lesions.max()), n_hit, int(findings.max()) - len(touching)


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
