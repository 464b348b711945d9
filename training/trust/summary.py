"""What all cases together say about a model: is it calibrated, does it know when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.errors import DataError
from training.statistics import Interval, wilson
from training.trust.calibration import Calibration, calibration
from training.trust.observe import CaseTrust, VolumeUnit, Voxels
from training.trust.uncertainty import ErrorForetold, foretells_error

MEASURES = {
    "disagreement": "disagreement (1 - mean Dice of two members)",
    "entropy_found": "mean entropy of the found region",
    "entropy_spread": "entropy per expected lesion voxel",
}
"""The fields of `CaseTrust` that are uncertainties; the first is the one that was chosen beforehand."""


@dataclass(frozen=True)
class VolumeCover:
    """How often |found - true| <= 2 SD, over cases with a lesion; 95 % would be right for a normal error.

    `errors_per_sd` is the median of |found - true| / SD where SD is above 0: about 0.67 for an SD that is
    right, and x times as much for one that is x times too small.
    """

    unit: VolumeUnit
    n: int
    n_covered: int
    share: float | None
    share_interval: Interval | None
    """Wilson's, with cases as independent."""
    n_without_sd: int
    """Cases whose members all found the same volume."""
    median_error: float | None
    median_sd: float | None
    errors_per_sd: float | None


@dataclass(frozen=True)
class Trust:
    """Everything that was measured on the cases of a split."""

    cases: tuple[CaseTrust, ...]
    before: Calibration | None
    """None, like `after`, when no voxel lies near truth or findings."""
    after: Calibration | None
    foretold: dict[str, ErrorForetold]
    """By the key of `MEASURES`; a measure that no case has is left out."""
    cover: VolumeCover

    def to_plain(self) -> dict[str, Any]:
        """Everything for JSON."""
        plain = asdict(self)
        for values, case in zip(plain["cases"], self.cases, strict=True):
            values["covered"] = case.covered
        return plain


def sum_up(cases: Sequence[CaseTrust], voxels: Sequence[Voxels]) -> Trust:
    """Put the cases together; raises DataError when there are none or their volumes differ in unit."""
    units = sorted({case.unit for case in cases})
    if len(units) != 1:
        raise DataError(f"volumes are in {units or 'no unit'}: choose cases that share one unit")
    happened = np.concatenate([part.happened for part in voxels])
    before = after = None
    if happened.size:
        before = calibration(np.concatenate([part.before for part in voxels]), happened)
        after = calibration(np.concatenate([part.after for part in voxels]), happened)
    foretold = {key: _foretold(cases, key) for key in MEASURES}
    return Trust(
        cases=tuple(cases),
        before=before,
        after=after,
        foretold={key: found for key, found in foretold.items() if found is not None},
        cover=volume_cover(cases),
    )


def _foretold(cases: Sequence[CaseTrust], measure: str) -> ErrorForetold | None:
    pairs = [(getattr(case, measure), case.dice) for case in cases]
    known = [(unsure, dice) for unsure, dice in pairs if unsure is not None]
    if not known:
        return None
    return foretells_error([unsure for unsure, _ in known], [dice for _, dice in known])


def volume_cover(cases: Sequence[CaseTrust]) -> VolumeCover:
    """Whether the members' spread says how wrong a volume is; needs one case at least."""
    real = [case for case in cases if case.volume_truth > 0]
    errors = [abs(case.volume_found - case.volume_truth) for case in real]
    ratios = [e / case.volume_sd for e, case in zip(errors, real, strict=True) if case.volume_sd > 0]
    n_covered = sum(case.covered for case in real)
    return VolumeCover(
        unit=cases[0].unit,
        n=len(real),
        n_covered=n_covered,
        share=n_covered / len(real) if real else None,
        share_interval=wilson(n_covered, len(real)),
        n_without_sd=len(real) - len(ratios),
        median_error=_median(errors),
        median_sd=_median([case.volume_sd for case in real]),
        errors_per_sd=_median(ratios),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
