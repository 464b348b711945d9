"""What an administrator can set, section by section: the typed content of `node.toml`."""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydicom.datadict import tag_for_keyword

from dicomnode.forms import DEFAULT_FORMS, Form, Wanted, kinds_of
from dicomnode.profiles import Profile, profile_path, read_profile
from inference.bundle import ModelCard, ModelState

WORKING_STATES = frozenset({"live", "shadow"})
SENDING_STATES = frozenset({"live"})


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression ({error})") from error
    return value


def _keyword(value: str) -> str:
    if tag_for_keyword(value) is None:
        raise ValueError(f"{value!r} is not a DICOM keyword")
    return value


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]*[^\\\x00-\x20][^\\\x00-\x1f]*$")
]
Pattern = Annotated[str, AfterValidator(_pattern)]
Keyword = Annotated[str, AfterValidator(_keyword)]
Network = Annotated[str, AfterValidator(_network)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(_Section):
    """Who we are on the network, and where everything is kept."""

    ae_title: AeTitle
    host: str = "0.0.0.0"
    port: Port = 11112
    data: Path
    """Folder of the spool and the database; relative to the configuration file."""


class ListenerSettings(_Section):
    """What the listener takes."""

    maximum_associations: int = Field(default=20, ge=1)
    other_objects: Literal["keep", "refuse"] = "keep"
    """What happens to objects that are not images (reports, presentation states, plans)."""
    minimum_free_gb: float = Field(default=5.0, ge=0.0)
    """Below this much free disk nothing more is taken (A700)."""


class PeerSettings(_Section):
    """One DICOM application entity that may send to us, receive from us, or both."""

    name: Name
    ae_title: AeTitle
    host: str
    port: Port
    may_send: bool = False
    networks: tuple[Network, ...] = ()
    """Addresses it may send from, as IP addresses or CIDR; empty means `host` alone."""
    count_instances: bool = False
    """Ask it by C-FIND how many instances a study has, so that nothing needs waiting for."""
    forms: tuple[Form, ...] = ()
    """Forms of the results that it gets. Empty: those of its profile, else "seg" and "reports"."""


class AssemblySettings(_Section):
    """When a study is complete: the first of these."""

    quiet_period_s: float = Field(default=30.0, gt=0.0)
    deadline_s: float = Field(default=1800.0, gt=0.0)
    settle_s: float = Field(default=0.5, gt=0.0)
    """A pause this long must pass before the peer is asked for its count."""
    count_interval_s: float = Field(default=5.0, gt=0.0)

    @model_validator(mode="after")
    def _ordered(self) -> AssemblySettings:
        if self.deadline_s < self.quiet_period_s:
            raise ValueError("deadline_s must not be below quiet_period_s")
        return self


class ModelSettings(_Section):
    """Where model bundles are, and which of them may do what."""

    folder: Path = Path("models")
    trusted_digests: frozenset[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = frozenset()
    states: dict[str, ModelState] = {}
    """Overrides the state that a bundle's own card gives it."""


class WorkerSettings(_Section):
    """How jobs are worked on. One process per entry of `devices`: "auto", "cpu", "cuda:0", ..."""

    devices: tuple[str, ...] = Field(default=("auto",), min_length=1)
    job_timeout_s: float = Field(default=900.0, gt=0.0)
    lease_s: float = Field(default=30.0, gt=0.0)
    maximum_attempts: int = Field(default=3, ge=1)
    retry_delay_s: float = Field(default=10.0, gt=0.0)


class DeliverySettings(_Section):
    """How results are sent until the destination has them."""

    first_delay_s: float = Field(default=5.0, gt=0.0)
    longest_delay_s: float = Field(default=900.0, gt=0.0)
    maximum_attempts: int = Field(default=200, ge=1)
    response_timeout_s: float = Field(default=30.0, gt=0.0)
    profiles: Path = Path("profiles")
    """Folder of what `dicomnode probe` found; relative to the configuration file."""


class Range(_Section):
    """A number between `min` and `max`, both included; either may be left out."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _holds(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Conditions(_Section):
    """What a series must be to match a route. Patterns are regular expressions, case ignored."""

    modality: str
    sop_class: Pattern | None = None
    body_part_examined: Pattern | None = None
    study_description: Pattern | None = None
    series_description: Pattern | None = None
    not_series_description: Pattern | None = None
    protocol_name: Pattern | None = None
    orientation: Literal["axial", "coronal", "sagittal"] | None = None
    slice_thickness_mm: Range | None = None
    instance_count: Range | None = None
    contrast: bool | None = None
    derived: bool | None = None
    tags: dict[Keyword, Pattern] = {}
    """Any other attribute by its DICOM keyword."""


class RouteSettings(_Section):
    """Series that match `when` go to `model`; the results go to `destinations`."""

    name: Name
    model: str
    destinations: tuple[str, ...] = Field(min_length=1)
    select: Literal["best", "all"] = "best"
    """Of several matching series of a study: the thinnest and longest one, or all of them."""
    priority: int = Field(default=0, ge=-10, le=10)
    when: Conditions


class Settings(_Section):
    """All of `node.toml`."""

    node: NodeSettings
    listener: ListenerSettings = ListenerSettings()
    peer: tuple[PeerSettings, ...] = ()
    assembly: AssemblySettings = AssemblySettings()
    models: ModelSettings = ModelSettings()
    worker: WorkerSettings = WorkerSettings()
    delivery: DeliverySettings = DeliverySettings()
    route: tuple[RouteSettings, ...] = ()

    @cached_property
    def peers(self) -> dict[str, PeerSettings]:
        """Peers by name."""
        return {peer.name: peer for peer in self.peer}

    @cached_property
    def wanted(self) -> Wanted:
        """The kinds of object that each peer gets: its own word, else its profile's, else the default.

        Raises ConfigurationError for a profile that cannot be read.
        """
        return {name: kinds_of(self.forms_of(peer)) for name, peer in self.peers.items()}

    def forms_of(self, peer: PeerSettings) -> tuple[Form, ...]:
        """The forms of the results that a peer gets, best first."""
        profile = self.profile_of(peer)
        return peer.forms or (profile.forms if profile else DEFAULT_FORMS)

    def profile_of(self, peer: PeerSettings) -> Profile | None:
        """What was found when the peer was probed; None when it never was."""
        path = profile_path(self.delivery.profiles, peer.name)
        return read_profile(path) if path and path.exists() else None

    def model_state(self, card: ModelCard) -> ModelState:
        """The state of a model here: the administrator's word, else the bundle's own."""
        return self.models.states.get(card.name, card.state)

    @property
    def database_url(self) -> str:
        """Where jobs, deliveries and the audit are."""
        return f"sqlite:///{self.node.data / 'node.sqlite'}"

    @property
    def spool(self) -> Path:
        """Where instances and results are."""
        return self.node.data / "spool"
