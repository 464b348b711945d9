"""Agreement of two masks: Dice, IoU, and Hausdorff distances in millimetres.

Empty masks are defined, not skipped. Both empty: Dice and IoU are 1 (full agreement) and the
distances are 0. One empty: Dice and IoU are 0 and there is no distance, which is None and is left
out of means; tables say how many were left out.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Agreement:
    """How far a found mask agrees with the truth."""

    dice: float
    iou: float
    hausdorff_mm: float | None
    hd95_mm: float | None


def agreement(found: Mask, truth: Mask, spacing_mm: Spacing) -> Agreement:
    """Compare two masks (slice, row, column) on one grid with `spacing_mm` in the same order.

    Raises ValueError when the shapes differ.
    """
    if found.shape != truth.shape:
        raise ValueError(f"masks have different shapes: {found.shape} and {truth.shape}")
    both = int(np.count_nonzero(found & truth))
    n_found, n_truth = int(np.count_nonzero(found)), int(np.count_nonzero(truth))
    if n_found == 0 and n_truth == 0:
        return Agreement(1.0, 1.0, 0.0, 0.0)
    if n_found == 0 or n_truth == 0:
        return Agreement(0.0, 0.0, None, None)
    return Agreement(
        dice=2 * both / (n_found + n_truth),
        iou=both / (n_found + n_truth - both),
        hausdorff_mm=hausdorff_mm(found, truth, spacing_mm, 100.0),
        hd95_mm=hausdorff_mm(found, truth, spacing_mm, 95.0),
    )


def hausdorff_mm(found: Mask, truth: Mask, spacing_mm: Spacing, percentile: float) -> float:
    """Distance between the surfaces of two masks that are not empty, by MONAI.

    The larger of the two directed `percentile`s over surface voxel centres; 100 gives the Hausdorff
    distance itself, 95 is what the literature calls HD95. Surface voxels have a neighbour (by face)
    outside the mask; what lies outside the grid counts as outside.
    """
    box = tuple(
        slice(max(0, int(where.min()) - 1), int(where.max()) + 2) for where in np.nonzero(found | truth)
    )
    pad = [(1, 1)] * 3
    one, other = (torch.from_numpy(np.pad(mask[box], pad))[None, None] for mask in (found, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns about its own arguments
        distance = compute_hausdorff_distance(
            one.float(), other.float(), include_background=True, percentile=percentile, spacing=spacing_mm
        )
    return float(distance.item())


@dataclass(frozen=True)
class Summary:
    """Mean and median of the values that exist, and how many there were."""

    mean: float | None
    median: float | None
    n: int
    n_undefined: int


def summarise(values: Iterable[float | None]) -> Summary:
    """Mean and median without the undefined values; None when none is left."""
    everything = list(values)
    defined = [value for value in everything if value is not None]
    if not defined:
        return Summary(None, None, 0, len(everything))
    return Summary(
        statistics.fmean(defined), statistics.median(defined), len(defined), len(everything) - len(defined)
    )
