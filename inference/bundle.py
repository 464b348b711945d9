"""Model bundles: a folder laid out as a MONAI Bundle plus `configs/dicom.json`. Reads without torch.

configs/metadata.json    what MONAI asks of every bundle
configs/inference.json   `network_def`: the network as a MONAI configuration
configs/dicom.json       the model card: what DICOM, routing and the node need
models/model.pt          the weights (a state dict)
docs/README.md  LICENSE
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference.errors import BundleError
from inference.fast_mode import FastMode, Precision
from inference.labelmap import Label
from inference.volume import IntensityUnit

CARD = "configs/dicom.json"
NETWORK = "configs/inference.json"
METADATA = "configs/metadata.json"

PLAIN_NETWORKS = frozenset(
    {
        "monai.networks.nets.AttentionUnet",
        "monai.networks.nets.BasicUNet",
        "monai.networks.nets.DynUNet",
        "monai.networks.nets.FlexibleUNet",
        "monai.networks.nets.MedNeXt",
        "monai.networks.nets.SegResNet",
        "monai.networks.nets.UNet",
        "inference.networks.deeplab.DeepLabV3Plus",
        "inference.networks.fcn.FCN",
    }
)
"""Networks a bundle may name without being trusted: building them runs no code of the bundle."""
ENSEMBLE = "inference.networks.ensemble.Ensemble"
"""May be named too; its `members` are plain networks."""


class ModelState(StrEnum):
    """What a model may do."""

    DRAFT = "draft"
    """Does not run yet."""
    SHADOW = "shadow"
    """Runs and stores its results, but never sends them."""
    LIVE = "live"
    """Runs, and its results are sent."""
    RETIRED = "retired"
    """Does not run any more."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(_Strict):
    """Intensities `low`..`high` become 0..1; what lies outside is clipped."""

    kind: Literal["window"] = "window"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class ZScore(_Strict):
    """Subtract the mean and divide by the standard deviation of the volume."""

    kind: Literal["z_score"] = "z_score"
    foreground: bool = False
    """Take both from the voxels above the mean of the volume only: how much air is in view then
    changes nothing."""


class Preprocessing(_Strict):
    """How a volume becomes network input, in training and in the node alike."""

    spatial_dims: Literal[2, 3]
    spacing_mm: tuple[float | None, float | None, float | None]
    """Target spacing (slice, row, column); None keeps the source's."""
    intensity: Annotated[Window | ZScore, Field(discriminator="kind")]
    context_slices: int = Field(default=0, ge=0, le=8)
    """2-D networks only: neighbouring slices on each side given as further channels."""
    window_size: tuple[int, ...]
    """Size of the sliding window on the model's grid, one number per spatial dimension."""
    overlap: float = Field(default=0.25, ge=0.0, lt=1.0)
    longest_side_px: int | None = Field(default=None, ge=16)
    """Scale every image so that its longer side has this many pixels, instead of a spacing: for images
    whose pixel size is not known."""
    plane: Literal["any", "axial", "coronal", "sagittal"] = "any"
    """The plane of the slices it was trained on; a volume in another one is refused."""
    canonical: bool = False
    """Turn the volume until its axes run as near as can be towards superior, posterior and left."""
    mirrored: tuple[Literal["slice", "row", "column"], ...] = ()
    """Test-time augmentation: the prediction is the mean over all combinations of these mirrored axes."""

    @model_validator(mode="after")
    def _fits(self) -> Preprocessing:
        if self.longest_side_px is not None and self.spacing_mm[1:] != (None, None):
            raise ValueError("give in-plane spacing_mm or longest_side_px, not both")
        if len(self.window_size) != self.spatial_dims:
            raise ValueError(f"window_size needs {self.spatial_dims} numbers: {self.window_size}")
        if self.context_slices and self.spatial_dims == 3:
            raise ValueError("context_slices is for 2-D networks")
        return self

    @property
    def channels(self) -> int:
        """Input channels of the network."""
        return 2 * self.context_slices + 1

    @property
    def looks_across_slices(self) -> bool:
        """Whether what it says of a slice depends on others, so that their distance matters."""
        return self.spatial_dims == 3 or self.context_slices > 0 or self.spacing_mm[0] is not None


class Postprocessing(_Strict):
    """How probabilities become lesions."""

    region: Literal["everywhere", "body", "lungs"] = "everywhere"
    """Lesions outside it are dropped. The network looks at a box around the lungs only; of the body it sees
    all, as it does without a region, but is asked only for a box around it."""
    probability_threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    peak_probability: float = Field(default=0.0, ge=0.0, lt=1.0)
    """A lesion whose most certain voxel stays below this is dropped."""
    smallest_lesion_mm3: float = Field(default=0.0, ge=0.0)
    smallest_lesion_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of the pixels of one image, for images without a place in the patient."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Logits are divided by it, so that a probability of 0.8 is right in 80 % of the voxels."""


class ModelCard(_Strict):
    """What a bundle says about itself: `configs/dicom.json`."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    title: str = Field(min_length=1, max_length=48)
    """Shown to people: SeriesDescription, algorithm name."""
    state: ModelState = ModelState.DRAFT
    modality: str
    intensity_unit: IntensityUnit
    routing_hints: dict[str, str] = {}
    labels: tuple[Label, ...] = Field(min_length=1)
    labels_overlap: bool = False
    """The network has one output for each label, and none for background: a probability by itself
    (sigmoid). A voxel may then have several labels, such as an organ and a lesion in it."""
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    weights: str = "models/model.pt"
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    precision: Precision = Precision.EXACT
    fast: FastMode | None = None

    @model_validator(mode="after")
    def _fast_only_when_measured(self) -> ModelCard:
        if self.precision is Precision.FAST:
            faults = ["it was not measured"] if self.fast is None else self.fast.faults(self.weights_sha256)
            if faults:
                raise ValueError(f"the fast mode is refused: {'; '.join(faults)} (see `dicomtrain fast`)")
        return self

    @property
    def looks_for_lesions(self) -> bool:
        """Whether it can say that no lesion was seen: a model of organs alone cannot."""
        return any(label.kind == "lesion" for label in self.labels)

    @model_validator(mode="after")
    def _labels_in_order(self) -> ModelCard:
        numbers = [label.number for label in self.labels]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"labels must be numbered 1..n in order, got {numbers}")
        return self


@dataclass(frozen=True)
class ModelBundle:
    """A checked bundle. `digest` names exactly this model: card, network and weights."""

    folder: Path
    card: ModelCard
    network_def: dict[str, Any]
    digest: str
    trusted: bool = False
    """The administrator named this digest, so its configuration may run code."""

    @property
    def weights_path(self) -> Path:
        """The weights file."""
        return self.folder / self.card.weights


def read_bundle(folder: Path, trusted_digests: frozenset[str] = frozenset()) -> ModelBundle:
    """Read and check the bundle in `folder`; does not load the weights.

    Raises BundleError when a file is missing or malformed, the weights are not those that the card
    names, or the network needs code and the digest is not among `trusted_digests`.
    """
    card_bytes, network_bytes = _read(folder / CARD), _read(folder / NETWORK)
    try:
        card = ModelCard.model_validate_json(card_bytes)
    except ValidationError as error:
        raise BundleError(f"{folder / CARD} is not a valid model card: {error}") from error
    network_def = _network_def(folder / NETWORK, network_bytes)
    weights_path = (folder / card.weights).resolve()
    if not weights_path.is_relative_to(folder.resolve()):
        raise BundleError(f"{folder / CARD}: weights {card.weights!r} lie outside the bundle")
    weights_sha256 = hashlib.sha256(_read(weights_path)).hexdigest()
    if weights_sha256 != card.weights_sha256:
        raise BundleError(
            f"{weights_path} has SHA-256 {weights_sha256}, the card says {card.weights_sha256}: "
            "restore the file or export the model again"
        )
    parts = (card_bytes, network_bytes, weights_sha256.encode())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if network_def.get("_target_") == ENSEMBLE:
        _check_votes(folder, network_def, card)
    trusted = digest in trusted_digests
    if not trusted and not is_plain(network_def):
        raise BundleError(
            f"{folder / NETWORK}: network_def {network_def.get('_target_')!r} can run code of the "
            f"bundle; to allow it, add its digest {digest} to models.trusted_digests"
        )
    return ModelBundle(folder, card, network_def, digest, trusted)


def _check_votes(folder: Path, network_def: dict[str, Any], card: ModelCard) -> None:
    if network_def.get("labels_overlap", False) is not card.labels_overlap:
        raise BundleError(
            f"{folder / NETWORK}: the ensemble's labels_overlap must be that of {CARD}, "
            f"which says {str(card.labels_overlap).lower()}"
        )


def is_plain(network_def: dict[str, Any]) -> bool:
    """Whether building this network only calls listed constructors with literals, and fetches nothing."""
    if network_def.get("_target_") != ENSEMBLE:
        return _is_plain_network(network_def)
    members = network_def.get("members")
    return (
        set(network_def) <= {"_target_", "members", "labels_overlap"}
        and isinstance(members, list)
        and all(_is_plain_network(member) for member in members)
    )


def _is_plain_network(network_def: object) -> bool:
    if not isinstance(network_def, dict):
        return False
    arguments = dict(network_def)
    target = arguments.pop("_target_", None)
    return (
        isinstance(target, str)
        and target in PLAIN_NETWORKS
        and arguments.get("pretrained", False) is False  # MONAI would download the weights
        and _is_literal(arguments)
    )


def _is_literal(value: object) -> bool:
    if isinstance(value, dict):
        return all(not str(k).startswith("_") and _is_literal(v) for k, v in value.items())
    if isinstance(value, list):
        return all(_is_literal(item) for item in value)
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return value is None or isinstance(value, bool | int | float)


def _network_def(path: Path, content: bytes) -> dict[str, Any]:
    try:
        network_def = json.loads(content)["network_def"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} has no readable 'network_def'") from error
    if not isinstance(network_def, dict):
        raise BundleError(f"{path}: 'network_def' must be an object")
    return network_def


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"bundle file {path} cannot be read: {error.strerror}") from error
