"""The experiment file: everything that decides how a model turns out, typed and checked at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from inference.bundle import ModelState, Postprocessing, Preprocessing, is_plain
from inference.labelmap import Label
from inference.volume import IntensityUnit
from training.errors import ExperimentError

NATIVE = "native"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Strict):
    """Where the cases lie and what counts as lesion in them."""

    folder: Path
    """Holds `manifest.csv` and one folder per case; relative to the experiment file."""
    raters_needed: int = Field(default=2, ge=1)
    """A voxel is lesion when at least this many readers enclosed it."""
    attribution: str = ""
    """Licence and citations of the data, copied into the bundle's README."""


class Augmentation(_Strict):
    """How far training windows are changed at random; 0 switches a change off."""

    scale: float = Field(default=0.15, ge=0.0, lt=0.5)
    """In-plane zoom, drawn from 1 - scale .. 1 + scale."""
    shift_hu: float = Field(default=30.0, ge=0.0)
    noise_hu: float = Field(default=25.0, ge=0.0)
    thick_slices: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of windows whose slices are averages of neighbours, as in a thick-slice scan."""
    thickest_mm: float = Field(default=5.0, gt=0.0)
    vanish: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of windows whose lesion is taken out of the slices beyond the ends of the crop."""


class Fitting(_Strict):
    """The training loop."""

    seed: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    window_size: tuple[int, int]
    """Rows and columns of a training window on the model's grid."""
    learning_rate: float = Field(gt=0.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    lesion_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of windows placed around a lesion; the others fall anywhere in a crop."""
    average_decay: float = Field(default=0.995, ge=0.0, lt=1.0)
    """Decay per step of the moving average of the weights, which is what is kept."""
    validate_every: int = Field(ge=1)
    threads: int = Field(default=2, ge=1)


class LossWeights(_Strict):
    """The loss: weighted cross entropy plus Tversky."""

    cross_entropy: float = Field(default=1.0, ge=0.0)
    lesion: float = Field(default=10.0, gt=0.0)
    """Weight of a lesion pixel in the cross entropy; a background pixel weighs 1."""
    tversky: float = Field(default=1.0, ge=0.0)
    missed: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Tversky weight of missed lesion pixels; false ones weigh 1 - missed."""


class Target(_Strict):
    """What the bundle says about itself; becomes its model card."""

    name: str
    version: str
    title: str
    description: str
    state: ModelState = "draft"
    modality: str
    intensity_unit: IntensityUnit
    routing_hints: dict[str, str] = {}
    labels: tuple[Label, ...] = Field(min_length=1)
    authors: str = "The project's developers"
    copyright: str = "The project's developers"
    limits: tuple[str, ...] = ()
    """Known limits, one sentence each, listed in the bundle's README."""


class Experiment(_Strict):
    """One model from data to bundle."""

    data: DataSource
    target: Target
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    network: dict[str, Any]
    """A MONAI network with literal arguments, named by `_target_`."""
    augmentation: Augmentation = Augmentation()
    fitting: Fitting
    loss: LossWeights = LossWeights()

    @field_validator("preprocessing", mode="before")
    @classmethod
    def _native_spacing(cls, value: Any) -> Any:
        """TOML has no null, so a spacing that follows the source is written "native"."""
        if isinstance(value, dict) and isinstance(value.get("spacing_mm"), list):
            spacing = [None if item == NATIVE else item for item in value["spacing_mm"]]
            return value | {"spacing_mm": spacing}
        return value

    @field_validator("network")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not is_plain(value):
            raise ValueError(f"{value.get('_target_')!r} is not a MONAI network with literal arguments")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        if self.preprocessing.spatial_dims != 2:
            raise ValueError("preprocessing.spatial_dims must be 2: training samples slices")
        channels = self.network.get("in_channels")
        if channels != self.preprocessing.channels:
            raise ValueError(
                f"network.in_channels is {channels}, but {self.preprocessing.context_slices} context "
                f"slices on each side make {self.preprocessing.channels}"
            )
        classes = len(self.target.labels) + 1
        if len(self.target.labels) != 1 or self.network.get("out_channels") != classes:
            raise ValueError("training knows one label and network.out_channels = 2")
        return self


def read_experiment(path: Path, data: Path | None = None) -> Experiment:
    """Read an experiment file; `data` replaces its data folder.

    Raises ExperimentError that lists everything wrong with the file, one line each.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"experiment file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"experiment file {path} is not valid TOML: {error}") from error
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise ExperimentError(
            f"experiment file {path} has {len(lines)} errors:\n" + "\n".join(lines)
        ) from error
    folder = data or path.parent / experiment.data.folder
    source = experiment.data.model_copy(update={"folder": folder})
    return experiment.model_copy(update={"data": source})
