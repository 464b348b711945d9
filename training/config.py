"""The experiment file: everything that decides how a model turns out, typed and checked at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from inference.bundle import ModelCard, ModelState, Postprocessing, Preprocessing, is_plain
from inference.labelmap import Label
from inference.volume import IntensityUnit
from training.datasets.catalogue import FORMATS
from training.errors import ExperimentError
from training.networks import CATALOGUE, network_def
from training.protocols import PROTOCOLS, Protocol, merged

NATIVE = "native"
UNKNOWN_DIGEST = "0" * 64
SIZES_AND_PLACE = {"region", "smallest_lesion_mm3", "smallest_lesion_share"}
"""What of the postprocessing is a clinical choice and depends on no network."""
Axis = Literal["slice", "row", "column"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Pixels = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Frozen, and a key that nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(Strict):
    """Where the cases lie and how they are laid out."""

    format: str
    """Name of an adapter in `training/datasets/catalogue.py`."""
    folder: Path
    """Relative to the experiment file."""
    options: dict[str, Any] = {}
    """What else the adapter wants to know."""
    attribution: str = ""
    """Licence and citations of the data, copied into the bundle's README."""
    train_share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the training groups that is used, to see what more labels would bring."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, format: str) -> str:
        if format not in FORMATS:
            raise ValueError(f"there is no format {format!r}; take one of {', '.join(FORMATS)}")
        return format


class Augmentation(Strict):
    """How far training windows are changed at random; 0 switches a change off.

    Grey levels are meant after normalisation: 0..1 for a window, standard deviations for a z-score.
    """

    rotate_degrees: float = Field(default=15.0, ge=0.0, le=180.0)
    scale: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Zoom, drawn from 1 - scale .. 1 + scale."""
    mirror: tuple[Axis, ...] = ()
    """Axes along which a window is mirrored half of the time."""
    quarter_turns: bool = False
    """Also turn rows and columns by a multiple of 90 degrees: for images without an up."""
    shift: float = Field(default=0.05, ge=0.0)
    """Standard deviation of a constant that is added."""
    noise: float = Field(default=0.05, ge=0.0)
    """Largest standard deviation of the noise per pixel."""
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Gamma is drawn from 1 - contrast .. 1 / (1 - contrast)."""
    blur_px: float = Field(default=0.0, ge=0.0)
    """Largest standard deviation of a Gaussian blur, in pixels of the model's grid."""
    thick_slices: Share = 0.0
    """2-D: share of windows whose slices are averages of neighbours, as in a thick-slice scan."""
    thickest_mm: float = Field(default=5.0, gt=0.0)
    vanish: Share = 0.0
    """2-D with context: share of windows whose lesion is taken out of the slices beyond the ends of the
    crop, because there the truth ends but a real scan goes on."""
    synthetic_lesions: Share = 0.0
    """Share of windows that get a lesion of another training case."""
    outside: Literal["edge", "mirror"] = "edge"
    """What lies beyond the borders of an image: its edge repeated, as inference pads, or the image
    mirrored, for crops whose real surroundings look like the crop."""


class Fitting(Strict):
    """The training loop."""

    seed: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    window_size: tuple[Pixels, ...]
    """Training window on the model's grid, one number per spatial dimension."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    schedule: Literal["constant", "cosine", "polynomial"] = "cosine"
    lesion_share: Share = 0.5
    """Share of windows placed around a labelled voxel; the others fall anywhere."""
    average_decay: float = Field(default=0.995, ge=0.0, lt=1.0)
    """Decay per step of the moving average of the weights, which is what is kept; 0: none is made."""
    validate_every: int = Field(ge=1)
    keep: Literal["dice", "loss"] = "dice"
    """The best weights are those with the highest validation Dice, or the lowest validation loss."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better one."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """bfloat16: mixed precision (autocast); parameters and the loss stay in float32."""
    threads: int = Field(default=1, ge=1)


class LossWeights(Strict):
    """The loss: weighted cross entropy plus Tversky, averaged over the labels."""

    cross_entropy: float = Field(default=1.0, ge=0.0)
    lesion: float = Field(default=1.0, gt=0.0)
    """Weight of a labelled pixel in the cross entropy; a background pixel weighs 1."""
    tversky: float = Field(default=1.0, ge=0.0)
    missed: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Tversky weight of missed pixels; false ones weigh 1 - missed. 0.5 makes it the Dice loss."""


class Target(Strict):
    """What the bundle says about itself; becomes its model card."""

    name: str
    version: str
    title: str
    description: str
    state: ModelState = ModelState.DRAFT
    modality: str
    intensity_unit: IntensityUnit
    routing_hints: dict[str, str] = {}
    labels: tuple[Label, ...] = Field(min_length=1)
    authors: str = "The project's developers"
    copyright: str = "The project's developers"
    limits: tuple[str, ...] = ()
    """Known limits, one sentence each, listed in the bundle's README."""


class Experiment(Strict):
    """One model from data to bundle."""

    data: DataSource
    target: Target
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    fitting: Fitting
    network: dict[str, Any]
    """A network with literal arguments, named by `_target_`; in the file also a name of the catalogue."""
    protocol: Protocol | None = None
    """The preset that the file started from."""
    augmentation: Augmentation = Augmentation()
    loss: LossWeights = LossWeights()

    @field_validator("network", mode="before")
    @classmethod
    def _by_name(cls, network: object, others: ValidationInfo) -> object:
        """A name of the catalogue becomes its definition, of a size that follows from the other sections."""
        if not isinstance(network, str):
            return network
        known = others.data
        if network not in CATALOGUE:
            raise ValueError(f"there is no network {network!r}; take one of {', '.join(CATALOGUE)}")
        if not {"preprocessing", "target", "fitting"} <= known.keys():
            return {}  # no size follows from sections that are wrong; those are complained of
        how, classes = known["preprocessing"], len(known["target"].labels) + 1
        try:
            return network_def(network, how.spatial_dims, how.channels, classes, known["fitting"].window_size)
        except ExperimentError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _windows_fit(self) -> Experiment:
        dims, window = self.preprocessing.spatial_dims, self.fitting.window_size
        if len(window) != dims:
            raise ValueError(f"fitting.window_size {window} needs {dims} numbers")
        if self.augmentation.quarter_turns and window[-2] != window[-1]:
            raise ValueError(
                f"augmentation.quarter_turns needs as many rows as columns in fitting.window_size {window}"
            )
        return self

    @model_validator(mode="after")
    def _network_fits(self) -> Experiment:
        if not is_plain(self.network):
            target = self.network.get("_target_")
            raise ValueError(f"{target!r} is not a known network with literal arguments")
        dims = self.preprocessing.spatial_dims
        if self.network.get("spatial_dims") not in (None, dims):
            raise ValueError(
                f"network.spatial_dims is {self.network['spatial_dims']}, preprocessing.spatial_dims {dims}"
            )
        channels = self.network.get("in_channels")
        if channels not in (None, self.preprocessing.channels):
            raise ValueError(
                f"network.in_channels is {channels}, but {self.preprocessing.context_slices} context "
                f"slices on each side make {self.preprocessing.channels}"
            )
        classes = len(self.target.labels) + 1
        if self.network.get("out_channels") not in (None, classes):
            raise ValueError(f"network.out_channels must be {classes}: background and the labels")
        return self

    @model_validator(mode="after")
    def _becomes_a_card(self) -> Experiment:
        """What the bundle would refuse is refused before hours of training."""
        try:
            ModelCard(**card_content(self), weights_sha256=UNKNOWN_DIGEST)
        except ValidationError as error:
            wrong = [f"target.{'.'.join(map(str, e['loc'])) or 'labels'}: {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(wrong)) from error
        return self


def read_experiment(path: Path, data: Path | None = None, protocol: Protocol | None = None) -> Experiment:
    """Read an experiment file; `data` replaces its data folder, `protocol` its preset.

    Raises ExperimentError that lists everything wrong with the file, one line each.
    """
    return to_experiment(read_toml(path), path, data, protocol)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises ExperimentError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"experiment file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"experiment file {path} is not valid TOML: {error}") from error


def to_experiment(
    content: dict[str, Any], path: Path, data: Path | None = None, protocol: Protocol | None = None
) -> Experiment:
    """Check the content of the experiment file `path`; raises ExperimentError."""
    protocol = protocol or content.get("protocol")
    if protocol is not None:
        preset = PROTOCOLS.get(protocol) if isinstance(protocol, str) else None
        if preset is None:
            raise ExperimentError(f"{path}: protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
        content = merged(content, preset, protocol)
    try:
        experiment = Experiment.model_validate(_resolved(content))
    except ValidationError as error:
        raise ExperimentError(complaint(path, error)) from error
    folder = data or path.parent / experiment.data.folder
    source = experiment.data.model_copy(update={"folder": folder})
    return experiment.model_copy(update={"data": source})


def complaint(path: Path, error: ValidationError) -> str:
    """Everything that is wrong with a file, one line each."""
    lines = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
    return f"experiment file {path} has {len(lines)} errors:\n" + "\n".join(lines)


def with_network(experiment: Experiment, name: str) -> Experiment:
    """The same experiment with a network of the catalogue; raises ExperimentError for an unknown one."""
    how = experiment.preprocessing
    classes = len(experiment.target.labels) + 1
    network = network_def(name, how.spatial_dims, how.channels, classes, experiment.fitting.window_size)
    return Experiment.model_validate(experiment.model_dump() | {"network": network})


def untuned(experiment: Experiment) -> Experiment:
    """The same experiment with decision limits that were fitted to no network.

    A file may hold the limits of the network that is shipped; they would mislead about any other.
    """
    how = experiment.postprocessing
    limits = Postprocessing(**how.model_dump(include=SIZES_AND_PLACE))
    return experiment.model_copy(update={"postprocessing": limits})


def card_content(experiment: Experiment) -> dict[str, Any]:
    """The part of the model card that the experiment file decides."""
    target = experiment.target.model_dump(exclude={"description", "authors", "copyright", "limits"})
    return target | {
        "preprocessing": experiment.preprocessing.model_dump(),
        "postprocessing": experiment.postprocessing.model_dump(),
    }


def _resolved(content: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null, so a spacing that follows the source is written "native"."""
    preprocessing = content.get("preprocessing")
    if not isinstance(preprocessing, dict) or not isinstance(preprocessing.get("spacing_mm"), list):
        return content
    spacing = [None if item == NATIVE else item for item in preprocessing["spacing_mm"]]
    return content | {"preprocessing": preprocessing | {"spacing_mm": spacing}}
