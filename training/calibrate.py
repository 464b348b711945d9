"""The operating point and the temperature of a model, from its validation cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from inference.bundle import Postprocessing
from inference.engine import Model
from inference.labelmap import Label
from inference.lesions import to_label_map
from inference.preprocess import prepare
from inference.volume import Volume
from training.cases import LoadedCase
from training.sources import to_source
from training.trust.calibration import Calibration, band, calibration, fit_temperature
from training.trust.operating_point import Choices, OperatingPoint, Scored, choose_operating_point

MARGIN_VOXELS = 8.0
"""Voxels of the model's grid around truth and findings whose probabilities are calibrated."""
MOST_VOXELS_PER_CASE = 20_000
CHOICES = Choices(peaks=(0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), smallest=(1.0,))
"""What is tried. The smallest lesion is the experiment's, a clinical choice: it is the unit of sizes here."""
UNCALIBRATED = 1.0

Floats = npt.NDArray[np.floating]
Tick = Callable[[], None]


@dataclass(frozen=True)
class Calibrated:
    """What was chosen on the validation cases, and how reliable probabilities are before and after."""

    postprocessing: Postprocessing
    temperature: float
    before: Calibration
    after: Calibration
    operating_point: OperatingPoint | None
    """None for a model of organs, whose voxels simply take their likeliest label."""


def calibrate(
    model: Model,
    cases: Sequence[LoadedCase],
    most_false_per_case: float | None = None,
    tick: Tick = lambda: None,
) -> Calibrated:
    """Fit the temperature, then choose the decision limits for lesions at that temperature.

    `most_false_per_case` bounds the false findings. Raises DataError or RunError when the cases do
    not allow it.
    """
    plain = with_limits(model, temperature=UNCALIBRATED)
    sampled = [sample(plain, loaded, tick) for loaded in cases]
    logits, truth = (np.concatenate([pair[part] for pair in sampled]) for part in (0, 1))
    temperature = fit_temperature(logits, truth)
    scaled = logits / temperature
    before, after = (calibration(_lesion(values), truth > 0) for values in (logits, scaled))
    point = None
    limits = {"temperature": temperature}
    labels = model.bundle.card.labels
    if all(label.kind == "lesion" for label in labels):
        warm = with_limits(model, temperature=temperature)
        scored = (score(warm, loaded, labels, tick) for loaded in cases)
        point = choose_operating_point(scored, CHOICES, most_false_per_case)
        limits |= {
            "probability_threshold": point.probability_threshold,
            "peak_probability": point.peak_probability,
        }
    how = model.bundle.card.postprocessing.model_copy(
        update={key: round(value, 4) for key, value in limits.items()}
    )
    return Calibrated(how, temperature, before, after, point)


def with_limits(model: Model, **limits: float) -> Model:
    """The same network under other decision limits."""
    return with_postprocessing(model, model.bundle.card.postprocessing.model_copy(update=limits))


def with_postprocessing(model: Model, how: Postprocessing) -> Model:
    """The same network, and what comes after it replaced."""
    card = model.bundle.card.model_copy(update={"postprocessing": how})
    return Model(replace(model.bundle, card=card), model.device, model.network)


def sample(model: Model, loaded: LoadedCase, tick: Tick) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Log probabilities (n, class) and truth (n,) of voxels near truth or findings, on the model's grid."""
    card = model.bundle.card
    source = to_source(loaded, card.preprocessing, len(card.labels))
    found = model.probabilities(prepare(loaded.volume, card.preprocessing)).numpy()
    spacing = (np.inf if card.preprocessing.spatial_dims == 2 else 1.0, 1.0, 1.0)
    near = band(1.0 - found[0], source.truth > 0, source.ignored, MARGIN_VOXELS, spacing)
    where = np.argwhere(near)
    if len(where) > MOST_VOXELS_PER_CASE:
        kept = np.random.default_rng(0).choice(len(where), MOST_VOXELS_PER_CASE, replace=False)
        where = where[kept]
    tick()
    slices, rows, columns = where.T
    log_probabilities = np.log(found[:, slices, rows, columns].T.clip(1e-7))
    return log_probabilities, source.truth[slices, rows, columns]


def score(model: Model, loaded: LoadedCase, labels: Sequence[Label], tick: Tick) -> Scored:
    """A validation case with the joint probability of all labels on its own grid."""
    image = prepare(loaded.volume, model.bundle.card.preprocessing)
    card = model.bundle.card
    _, certainty = to_label_map(model.probabilities(image), image, tuple(labels), card.postprocessing)
    tick()
    size = _voxel_size(loaded.volume, card.postprocessing)
    return Scored(certainty, loaded.truth > 0, loaded.ignored, size)


def _voxel_size(volume: Volume, how: Postprocessing) -> float:
    """As a share of the smallest lesion, which is in mm3 or, without a place in the patient, of one image."""
    if volume.has_geometry:
        size, smallest = volume.voxel_volume_mm3, how.smallest_lesion_mm3
    else:
        size, smallest = 1.0 / (volume.shape[1] * volume.shape[2]), how.smallest_lesion_share
    return size / smallest if smallest else np.inf


def _lesion(log_probabilities: Floats) -> Floats:
    """The probability of any label."""
    scaled = torch.from_numpy(log_probabilities).softmax(dim=1)[:, 0]
    return np.asarray(1.0 - scaled.numpy())
