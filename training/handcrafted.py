"""The traditional baseline: handcrafted features of each voxel, and a random forest.

Features describe a pixel within its slice: grey level, edges, blobs, vessels and texture at several
scales, and its place. The same images go in as for a network (`inference.preprocess`), and the same
code makes a label map of the probabilities (`inference.lesions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from skimage.filters import rank
from skimage.morphology import disk
from sklearn.ensemble import RandomForestClassifier

from inference.bundle import Postprocessing, Preprocessing, Window
from inference.labelmap import Label
from inference.lesions import find_lesions, to_label_map
from inference.preprocess import ModelInput, prepare
from inference.volume import Volume
from training.cases import LoadedCase
from training.errors import DataError
from training.trust.operating_point import Choices, Scored, choose_operating_point

Image = npt.NDArray[np.float32]
Truth = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Tick = Callable[[], None]

GREY_LEVELS = 32
"""For the entropy."""
ENTROPY_RADIUS = 5
HIGH, LOW = 3, 4
"""Where the larger and the smaller eigenvalue of the Hessian stand among the features of a scale."""
PIXELS_PER_STEP = 65536
IGNORED = 255
"""Stands for a voxel that counts neither way, on the model's grid."""


class ForestSettings(BaseModel):
    """The whole method. Lengths are in pixels of the model's grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    trees: int = Field(default=50, ge=1)
    depth: int = Field(default=18, ge=1)
    smallest_leaf: int = Field(default=4, ge=1)
    voxels_per_case: int = Field(default=300, ge=2)
    """Drawn from each case, as many of each label that it has as of background."""
    scales_px: tuple[float, ...] = Field(default=(1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)
    smoothing_px: float = Field(default=2.0, ge=0.0)
    """Standard deviation by which probabilities are smoothed; in 3-D across slices too."""


@dataclass(frozen=True, eq=False)
class Forest:
    """A fitted forest. `postprocessing` holds its operating point."""

    trees: RandomForestClassifier
    how: ForestSettings
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    labels: tuple[Label, ...]

    def probabilities(self, volume: Volume) -> torch.Tensor:
        """Class probabilities (class, slice, row, column) on the model's grid; class 0 is background.

        The forest is fitted to as much background as lesion, so they are too high for a lesion; the
        operating point makes up for that.
        """
        return self._probabilities(prepare(volume, self.preprocessing))

    def certainty(self, volume: Volume) -> Image:
        """The joint probability of all labels (slice, row, column) on the grid of `volume`."""
        image = prepare(volume, self.preprocessing)
        return to_label_map(self._probabilities(image), image, self.labels, self.postprocessing)[1]

    def find(self, volume: Volume) -> Truth:
        """The label map (slice, row, column) on the grid of `volume`."""
        image = prepare(volume, self.preprocessing)
        label_map, certainty = to_label_map(
            self._probabilities(image), image, self.labels, self.postprocessing
        )
        lesions = find_lesions(label_map, volume, self.postprocessing, None, certainty)
        found: Truth = np.where(lesions.values > 0, label_map.values, 0).astype(np.uint8)
        return found

    def _probabilities(self, image: ModelInput) -> torch.Tensor:
        voxels = image.image.numpy()
        result = np.zeros((len(self.labels) + 1, *voxels.shape), np.float32)
        for number, pixels in enumerate(voxels):
            features = pixel_features(pixels, self.how.scales_px)
            flat = features.reshape(-1, features.shape[-1])
            steps = range(0, len(flat), PIXELS_PER_STEP)
            found = np.concatenate(
                [self.trees.predict_proba(flat[first : first + PIXELS_PER_STEP]) for first in steps]
            )
            for column, label in enumerate(self.trees.classes_):
                result[label, number] = found[:, column].reshape(pixels.shape)
        across = self.how.smoothing_px if self.preprocessing.spatial_dims == 3 else 0.0
        sigma = (0.0, across, self.how.smoothing_px, self.how.smoothing_px)
        return torch.from_numpy(ndimage.gaussian_filter(result, sigma, mode="nearest"))


def fit_forest(
    cases: Iterable[LoadedCase],
    how: ForestSettings,
    preprocessing: Preprocessing,
    labels: tuple[Label, ...],
    tick: Tick = lambda: None,
) -> Forest:
    """Fit a forest to the training cases; `tick` is called after each. One seed gives one forest.

    Its threshold is 0.5 until `with_operating_point`. Raises DataError when a label of `labels` is
    in no case, or a case holds another.
    """
    features, targets = [], []
    for number, loaded in enumerate(cases):
        of_case, target = _sample(loaded, how, preprocessing, np.random.default_rng((how.seed, number)))
        features.append(of_case)
        targets.append(target)
        tick()
    target = np.concatenate(targets) if targets else np.zeros(0, np.uint8)
    known, seen = {0, *(label.number for label in labels)}, set(np.unique(target).tolist())
    if known != seen:
        raise DataError(
            f"the training cases hold labels {sorted(seen)}, the forest needs {sorted(known)}: check the "
            "labels of the data set"
        )
    trees = RandomForestClassifier(
        how.trees,
        max_depth=how.depth,
        min_samples_leaf=how.smallest_leaf,
        random_state=how.seed,
        n_jobs=1,
    )
    trees.fit(np.concatenate(features), target)
    return Forest(trees, how, preprocessing, Postprocessing(), labels)


def with_operating_point(
    forest: Forest, cases: Iterable[LoadedCase], choices: Choices | None = None, tick: Tick = lambda: None
) -> Forest:
    """`forest` with the thresholds that give the highest mean Dice on validation cases.

    The smallest lesion stays as it is, and where all labels are organs the peak too: an organ stays
    in one piece. Raises RunError without cases.
    """
    choices = replace(choices or Choices(), smallest=(0.0,))
    if all(label.kind == "organ" for label in forest.labels):
        choices = replace(choices, peaks=(0.0,))
    point = choose_operating_point(_scored(forest, cases, tick), choices)
    changes = {
        "probability_threshold": point.probability_threshold,
        "peak_probability": point.peak_probability,
    }
    return replace(forest, postprocessing=forest.postprocessing.model_copy(update=changes))


def _scored(forest: Forest, cases: Iterable[LoadedCase], tick: Tick) -> Iterable[Scored]:
    for loaded in cases:
        yield Scored(forest.certainty(loaded.volume), loaded.truth > 0, loaded.ignored, 1.0)
        tick()


def pixel_features(image: Image, scales_px: tuple[float, ...]) -> Image:
    """Features (row, column, feature) of one normalised slice (row, column).

    Grey level; at each scale the smoothed grey level, gradient magnitude, Laplacian of Gaussian, the
    two eigenvalues of the Hessian (all normalised for scale: Lindeberg, IJCV 1998) and the local
    standard deviation; bright and dark vessels, which are the strongest ridge over the scales (Sato
    et al., Medical Image Analysis 1998); local entropy; row, column and distance from the centre, as
    shares of the image.
    """
    at_scales = [_at_scale(image, scale) for scale in scales_px]
    features = [image, *(feature for features in at_scales for feature in features)]
    features.append(np.max([-features[LOW] for features in at_scales], axis=0).clip(0.0))
    features.append(np.max([features[HIGH] for features in at_scales], axis=0).clip(0.0))
    features.append(rank.entropy(_few_levels(image), disk(ENTROPY_RADIUS)))
    rows, columns = (np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in image.shape)
    place = [part.astype(np.float32) for part in np.meshgrid(rows, columns, indexing="ij")]
    features += [place[0], place[1], np.hypot(place[0], place[1])]
    return np.stack(features, axis=-1).astype(np.float32)


def _at_scale(image: Image, scale: float) -> list[Image]:
    def smoothed(values: Image, order: tuple[int, int] = (0, 0)) -> Image:
        result: Image = ndimage.gaussian_filter(values, scale, order, mode="nearest")
        return result

    mean = smoothed(image)
    gradient = scale * np.hypot(smoothed(image, (1, 0)), smoothed(image, (0, 1)))
    rr, rc, cc = (scale**2 * smoothed(image, order) for order in ((2, 0), (1, 1), (0, 2)))
    half, apart = (rr + cc) / 2, np.hypot((rr - cc) / 2, rc)
    spread = np.sqrt((smoothed(image * image) - mean * mean).clip(0.0))
    return [mean, gradient, rr + cc, half + apart, half - apart, spread]


def _few_levels(image: Image) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(image, (1, 99))
    share = (image - low) / max(float(high - low), 1e-6)
    levels: npt.NDArray[np.uint8] = (share.clip(0.0, 1.0) * (GREY_LEVELS - 1)).astype(np.uint8)
    return levels


def _sample(
    loaded: LoadedCase, how: ForestSettings, preprocessing: Preprocessing, rng: np.random.Generator
) -> tuple[Image, Truth]:
    """Features (n, feature) and labels (n,) of voxels of one case, equally many of each label."""
    image = prepare(loaded.volume, preprocessing).image.numpy()
    truth = _truth_on_grid(loaded, preprocessing)
    present = [label for label in np.unique(truth) if label != IGNORED]
    each = how.voxels_per_case // max(1, len(present))
    chosen = np.sort(
        np.concatenate(
            [np.zeros(0, np.intp), *(_some(np.flatnonzero(truth == label), each, rng) for label in present)]
        )
    )
    slices, inside = np.divmod(chosen, image[0].size)
    features = [np.zeros((0, pixel_features(image[0], how.scales_px).shape[-1]), np.float32)]
    for number in np.unique(slices):
        of_slice = pixel_features(image[number], how.scales_px)
        features.append(of_slice.reshape(-1, of_slice.shape[-1])[inside[slices == number]])
    return np.concatenate(features), truth.ravel()[chosen]


def _some(places: npt.NDArray[np.intp], most: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    return rng.choice(places, min(most, len(places)), replace=False)


def _truth_on_grid(loaded: LoadedCase, preprocessing: Preprocessing) -> Truth:
    """Labels on the model's grid, `IGNORED` where a voxel does not count.

    Masks take the way of the image, so they land on its grid whatever `prepare` does.
    """
    as_it_is = preprocessing.model_copy(update={"intensity": Window(low=0.0, high=1.0)})

    def bring(mask: Mask) -> Image:
        volume = replace(loaded.volume, voxels=mask.astype(np.float32))
        brought: Image = prepare(volume, as_it_is).image.numpy()
        return brought

    numbers = [0, *(int(label) for label in np.unique(loaded.truth) if label)]
    shares = np.stack([bring(loaded.truth == number) for number in numbers])
    truth: Truth = np.array(numbers, np.uint8)[shares.argmax(axis=0)]
    truth[bring(loaded.ignored) > 0.0] = IGNORED
    return truth
