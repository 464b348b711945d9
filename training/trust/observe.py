"""One case seen with its truth: what the model finds, how sure it is, and whether that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from inference.engine import Model
from inference.lesions import decide
from inference.preprocess import ModelInput, prepare
from inference.volume import Volume
from training.calibrate import MARGIN_VOXELS, MOST_VOXELS_PER_CASE, UNCALIBRATED, with_limits
from training.cases import LoadedCase, Mask, Truth
from training.evaluate import spacing_of
from training.metrics import agreement
from training.sources import Source, to_source
from training.trust.calibration import band
from training.trust.uncertainty import Axis, mirrored_members, uncertainty

Floats = npt.NDArray[np.floating]
VolumeUnit = Literal["mm3", "mm2", "px"]


@dataclass(frozen=True)
class CaseTrust:
    """The numbers of one case, over all its labels.

    `dice` is the mean over the labels. Volumes, in `unit`, are those of all findings as the node
    would report them; `volume_sd` is the standard deviation (n - 1) of what the members find. The
    three uncertainties are compared with 1 - Dice: `disagreement` is 1 - the mean Dice of two
    members, `entropy_found` the mean entropy in the found region (None when nothing is found),
    `entropy_spread` the entropy of the whole image per expected voxel of lesion.
    """

    case: str
    group: str
    stratum: str
    dice: float
    unit: VolumeUnit
    volume_found: float
    volume_truth: float
    volume_sd: float
    disagreement: float
    entropy_found: float | None
    entropy_spread: float
    truth_voxels: int
    """Of the truth on the model's grid, where a tiny lesion can vanish."""

    @property
    def covered(self) -> bool:
        """Whether the true volume lies within two standard deviations of the found one."""
        return abs(self.volume_found - self.volume_truth) <= 2.0 * self.volume_sd


@dataclass(frozen=True, eq=False)
class Voxels:
    """Voxels near truth or findings: the probability of any label, and whether there is one; all (n,).

    `before` is at temperature 1, `after` at the bundle's.
    """

    before: Floats
    after: Floats
    happened: Mask


def observe(model: Model, loaded: LoadedCase, axes: Sequence[Axis]) -> tuple[CaseTrust, Voxels]:
    """Predict a case and its mirror images along `axes`, and compare with the truth.

    As in `evaluate.find_in_crop` the region is left out, since a crop shows no whole organ. Raises
    RunError without axes, DataError where distances are not known.
    """
    card = model.bundle.card
    image = prepare(loaded.volume, card.preprocessing)
    members = mirrored_members(model, image, axes)
    own = model.probabilities(image) if card.preprocessing.mirrored else members[0]
    source = to_source(loaded, card.preprocessing, len(card.labels))
    return _case_trust(model, loaded, image, members, own, source), _voxels(model, image, own, source)


def found_labels(model: Model, volume: Volume, image: ModelInput, probabilities: torch.Tensor) -> Truth:
    """Label numbers (slice, row, column) on the volume's grid: what the node would report of it."""
    lesions = decide(probabilities, image, volume, model.bundle.card)
    numbers = np.array([0, *(lesion.label.number for lesion in lesions.lesions)], np.uint8)
    found: Truth = numbers[lesions.values]
    return found


def _case_trust(
    model: Model,
    loaded: LoadedCase,
    image: ModelInput,
    members: torch.Tensor,
    own: torch.Tensor,
    source: Source,
) -> CaseTrust:
    counted, case = ~loaded.ignored, loaded.case
    spacing, distance_unit = spacing_of(loaded)
    found = found_labels(model, loaded.volume, image, own)
    labels = range(1, len(model.bundle.card.labels) + 1)
    dice = [
        agreement((found == label) & counted, loaded.mask(label) & counted, spacing).dice for label in labels
    ]
    flat = loaded.volume.shape[0] == 1
    voxel_size = float(np.prod(spacing[1:] if flat else spacing))
    volumes = [
        np.count_nonzero((found_labels(model, loaded.volume, image, member) > 0) & counted) * voxel_size
        for member in members
    ]
    how_sure = uncertainty(members, model.bundle.card.postprocessing.probability_threshold)
    expected = float((1.0 - members[:, 0].double()).mean(dim=0).sum())
    return CaseTrust(
        case=case.name,
        group=case.group,
        stratum=case.stratum,
        dice=float(np.mean(dice)),
        unit="px" if distance_unit == "px" else ("mm2" if flat else "mm3"),
        volume_found=np.count_nonzero((found > 0) & counted) * voxel_size,
        volume_truth=np.count_nonzero((loaded.truth > 0) & counted) * voxel_size,
        volume_sd=float(np.std(volumes, ddof=1)),
        disagreement=1.0 - how_sure.pairwise_dice,
        entropy_found=how_sure.mean_entropy,
        entropy_spread=float(how_sure.entropy.sum()) / max(expected, 1e-6),
        truth_voxels=int(np.count_nonzero(source.truth)),
    )


def _voxels(model: Model, image: ModelInput, own: torch.Tensor, source: Source) -> Voxels:
    card = model.bundle.card
    if card.postprocessing.temperature == UNCALIBRATED:
        plain = own
    else:
        plain = with_limits(model, temperature=UNCALIBRATED).probabilities(image)
    after, before = ((1.0 - p[0].numpy()).clip(0.0, 1.0) for p in (own, plain))  # rounding may leave 0..1
    spacing = (np.inf if card.preprocessing.spatial_dims == 2 else 1.0, 1.0, 1.0)
    near = band(after, source.truth > 0, source.ignored, MARGIN_VOXELS, spacing)
    where = np.flatnonzero(near)
    if len(where) > MOST_VOXELS_PER_CASE:
        where = np.random.default_rng(0).choice(where, MOST_VOXELS_PER_CASE, replace=False)
    return Voxels(
        before=before.ravel()[where], after=after.ravel()[where], happened=source.truth.ravel()[where] > 0
    )
