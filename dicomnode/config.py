"""The configuration, `node.toml`: typed, checked as a whole, every problem reported at once."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydicom.datadict import tag_for_keyword

from dicomnode.errors import ConfigurationError
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


def load_settings(path: Path) -> Settings:
    """Read and check `node.toml`; relative paths in it start at its folder.

    Raises ConfigurationError naming file, key and remedy of every problem.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"configuration {path} cannot be read ({error.strerror}); name another with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration {path} is not valid TOML: {error}") from error
    contradictions = list(_contradictions(content))
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        problems = [*(_sentence(problem) for problem in error.errors()), *contradictions]
        raise _all_problems(path, problems) from error
    if contradictions:
        raise _all_problems(path, contradictions)
    base = path.resolve().parent
    settings = settings.model_copy(
        update={
            "node": settings.node.model_copy(update={"data": base / settings.node.data}),
            "models": settings.models.model_copy(update={"folder": base / settings.models.folder}),
            "delivery": settings.delivery.model_copy(update={"profiles": base / settings.delivery.profiles}),
        }
    )
    _ = settings.wanted  # a broken profile is found before anything starts
    return settings


def _all_problems(path: Path, problems: list[str]) -> ConfigurationError:
    lines = [f"  {problem}" for problem in problems]
    return ConfigurationError(f"configuration {path} has {len(lines)} problem(s):\n" + "\n".join(lines))


def _sentence(problem: Any) -> str:
    """One pydantic problem as `key: what is wrong and what to do`."""
    key = ""
    for part in problem["loc"]:
        key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else str(part)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key or 'file'}: {message}; got {problem['input']!r}"


def _contradictions(content: dict[str, Any]) -> Iterable[str]:
    """What no single key shows: names used twice or never defined.

    Works on the plain content, so that a mistake elsewhere does not hide these.
    """
    peers, routes = (_tables(content, kind) for kind in ("peer", "route"))
    for kind, tables in (("peer", peers), ("route", routes)):
        for name, count in Counter(str(table.get("name")) for table in tables if "name" in table).items():
            if count > 1:
                yield f"{kind}: the name {name!r} is used {count} times; rename one"
    known = [str(peer.get("name")) for peer in peers]
    for number, route in enumerate(routes, 1):
        for problem in _destination_problems(route.get("destinations"), known):
            yield f"route[{number}].destinations: {problem}"
    if peers and not any(peer.get("may_send") for peer in peers):
        yield "peer: nobody may send; set may_send = true for at least one"


def _destination_problems(destinations: Any, known: list[str]) -> Iterable[str]:
    names = [name for name in destinations if isinstance(name, str)] if isinstance(destinations, list) else []
    for name, count in Counter(names).items():
        if count > 1:
            yield f"names {name!r} more than once; remove one"
        if name not in known:
            yield (
                f"no peer is called {name!r} (known: {', '.join(known) or 'none'}); "
                "add a [[peer]] or correct the name"
            )


def _tables(content: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = content.get(kind)
    return [table for table in found if isinstance(table, dict)] if isinstance(found, list) else []
