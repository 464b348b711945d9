"""What an administrator can set, section by section: the typed content of `node.toml`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from sqlalchemy import URL

from dicomnode.errors import ConfigurationError
from dicomnode.forms import DEFAULT_FORMS, Form, Wanted, kinds_of
from dicomnode.profiles import Profile, profile_path, read_profile
from dicomnode.settings.alert import AlertSettings
from dicomnode.settings.assembly import AssemblySettings, RequiredSettings
from dicomnode.settings.audit import AuditSettings
from dicomnode.settings.database import DatabaseSettings
from dicomnode.settings.inference import InferenceSettings
from dicomnode.settings.network import ConnectionSettings, PeerConnectionSettings, TlsSettings
from dicomnode.settings.retention import RetentionSettings
from dicomnode.settings.section import AeTitle, Conditions, Name, Network, Port, Section
from dicomnode.settings.web import WebSettings
from inference.bundle import ModelState


class NodeSettings(Section):
    """Who we are on the network, and where everything is kept."""

    ae_title: AeTitle
    host: str = "0.0.0.0"
    port: Port = 11112
    data: Path
    """Folder of the spool and the database; relative to the configuration file."""


class ListenerSettings(ConnectionSettings):
    """What the listener takes."""

    other_objects: Literal["keep", "refuse"] = "keep"
    """What happens to objects that are not images (reports, presentation states, plans)."""
    processes: int = Field(default=1, ge=1, le=64)
    """Receivers on this machine that share the port; limits of associations hold in each of them."""
    fast_path: bool = True
    """Take what is plain by our own reading of PDUs; without, pynetdicom does everything."""
    minimum_free_gb: float = Field(default=5.0, ge=0.0)
    """Below this much free disk nothing more is taken (A700)."""
    closed_free_gb: float | None = Field(default=None, ge=0.0)
    """Below this new associations are rejected too. Not set: half of `minimum_free_gb`."""
    recovered_free_gb: float | None = Field(default=None, ge=0.0)
    """From here on everything is taken again. Not set: 1.2 times `minimum_free_gb`."""

    @model_validator(mode="after")
    def _ordered(self) -> ListenerSettings:
        low, middle, high = self.free_gb
        if not low <= middle <= high:
            raise ValueError(
                f"closed_free_gb {low:g}, minimum_free_gb {middle:g} and recovered_free_gb {high:g} must rise"
            )
        return self

    @property
    def free_gb(self) -> tuple[float, float, float]:
        """No associations below the first mark, no objects below the second, everything from the third."""
        low = self.minimum_free_gb / 2 if self.closed_free_gb is None else self.closed_free_gb
        high = self.minimum_free_gb * 1.2 if self.recovered_free_gb is None else self.recovered_free_gb
        return low, self.minimum_free_gb, high


class PeerSettings(PeerConnectionSettings):
    """One DICOM application entity that may send to us, receive from us, or both."""

    name: Name
    ae_title: AeTitle
    host: str
    port: Port
    may_send: bool = False
    networks: tuple[Network, ...] = ()
    """Addresses it may send from, as IP addresses or CIDR; empty means `host` alone."""
    storage_commitment: bool = False
    """Ask it to commit to the results that it gets; they are delivered only when it does."""
    count_instances: bool = False
    """Ask it how many instances a study has, so that nothing needs waiting for."""
    dicomweb: str | None = Field(default=None, pattern=r"^https?://[^\s?#]+[^\s?#/]$")
    """Root of its DICOMweb services: asks by QIDO-RS instead of C-FIND."""
    dicomweb_token_file: Path | None = None
    """A file with the bearer token for them."""
    retrieve_missing: Literal["no", "move", "get"] = "no"
    """Fetch from it what did not arrive of a study: by C-MOVE to our own port, or by C-GET."""
    priority: int = Field(default=0, ge=-10, le=10)
    """Added to the priority of every job from a study that it sent."""
    forms: tuple[Form, ...] = ()
    """Forms of the results that it gets. Empty: those of its profile, else "seg" and "reports"."""

    @model_validator(mode="after")
    def _can_count(self) -> PeerSettings:
        if self.retrieve_missing != "no" and not self.count_instances:
            raise ValueError("retrieve_missing needs count_instances = true: a count shows what is missing")
        return self


class ModelSettings(Section):
    """Where model bundles are, and which of them may do what."""

    folder: Path = Path("models")
    trusted_digests: frozenset[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = frozenset()
    states: dict[str, ModelState] = {}  # noqa: RUF012
    """By name: the first state of a version, whatever its card says, and the limit of all later ones."""
    shadow_backlog: int = Field(default=20, ge=0)
    """With so many shadow jobs waiting, a candidate does not look at the next series."""
    shadow_load: int = Field(default=10, ge=1)
    """With so many other jobs waiting, neither."""


class WorkerSettings(Section):
    """How jobs are worked on. One process per entry of `devices`: "auto", "cpu", "cuda:0", ..."""

    devices: tuple[Annotated[str, Field(pattern=r"^(auto|cpu|cuda:[0-9]+)$")], ...] = Field(
        default=("auto",), min_length=1
    )
    compile: Literal["off", "auto"] = "off"
    """Whether networks that see windows of one size are compiled when a worker starts, where that can be."""
    job_timeout_s: float = Field(default=900.0, gt=0.0)
    lease_s: float = Field(default=30.0, gt=0.0)
    maximum_attempts: int = Field(default=3, ge=1)
    maximum_losses: int = Field(default=2, ge=1)
    """A job fails when so many workers were lost on it: it most likely kills them."""
    retry_delay_s: float = Field(default=10.0, gt=0.0)
    maximum_waiting_jobs: int = Field(default=2000, ge=1)
    """While so many jobs wait, complete studies are held and make no more."""


class DeliverySettings(Section):
    """How results are sent until the destination has them."""

    first_delay_s: float = Field(default=5.0, gt=0.0)
    longest_delay_s: float = Field(default=900.0, gt=0.0)
    maximum_attempts: int = Field(default=200, ge=1)
    failures_until_lost: int = Field(default=3, ge=1)
    """After so many failures in a row a destination counts as lost: one alert, and rare probes."""
    response_timeout_s: float = Field(default=30.0, gt=0.0)
    commitment_timeout_s: float = Field(default=600.0, gt=0.0)
    """Without a report after this long, commitment is asked for again."""
    commitment_attempts: int = Field(default=10, ge=1)
    maximum_waiting: int = Field(default=20000, ge=1)
    """While so many results wait to be sent, complete studies are held and make no more."""
    profiles: Path = Path("profiles")
    """Folder of what `dicomnode probe` found; relative to the configuration file."""


class RouteSettings(Section):
    """Series that match `when` go to `model`; the results go to `destinations`."""

    name: Name
    model: str
    destinations: tuple[str, ...] = Field(min_length=1)
    select: Literal["best", "all"] = "best"
    """Of several matching series of a study: the thinnest and longest one, or all of them."""
    priority: int = Field(default=0, ge=-10, le=10)
    when: Conditions


class PrioritySettings(Section):
    """How urgent a job is, beside the priority of its route and of the peer that sent the study."""

    stat: int = Field(default=10, ge=-20, le=20)
    """Added when the images say RequestedProcedurePriority (0040,1003) STAT."""
    high: int = Field(default=5, ge=-20, le=20)
    low: int = Field(default=-5, ge=-20, le=20)
    ageing_s: float = Field(default=600.0, gt=0.0)
    """So many seconds of waiting weigh as much as one step of priority, so that nothing starves."""


class Settings(Section):
    """All of `node.toml`."""

    node: NodeSettings
    database: DatabaseSettings = DatabaseSettings()
    listener: ListenerSettings = ListenerSettings()
    tls: TlsSettings | None = None
    peer: tuple[PeerSettings, ...] = ()
    assembly: AssemblySettings = AssemblySettings()
    required: tuple[RequiredSettings, ...] = ()
    models: ModelSettings = ModelSettings()
    worker: WorkerSettings = WorkerSettings()
    inference: InferenceSettings = InferenceSettings()
    delivery: DeliverySettings = DeliverySettings()
    web: WebSettings | None = None
    priority: PrioritySettings = PrioritySettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()
    audit: AuditSettings = AuditSettings()
    route: tuple[RouteSettings, ...] = ()

    @cached_property
    def peers(self) -> dict[str, PeerSettings]:
        """Peers by name."""
        return {peer.name: peer for peer in self.peer}

    @property
    def dicom_ports(self) -> tuple[int, ...]:
        """The ports that receivers open: the plain one stays closed where everybody who may send uses TLS."""
        if self.tls is None:
            return (self.node.port,)
        everybody_by_tls = all(peer.tls for peer in self.peer if peer.may_send)
        return (self.tls.port,) if everybody_by_tls else (self.tls.port, self.node.port)

    def port_for(self, peer: PeerSettings) -> int:
        """The port that a peer is to call."""
        return self.tls.port if self.tls is not None and peer.tls else self.node.port

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
        """What was found when the peer was probed; None when it never was. Raises ConfigurationError."""
        path = profile_path(self.delivery.profiles, peer.name)
        try:
            return read_profile(path) if path and path.exists() else None
        except PermissionError as error:
            raise ConfigurationError(
                f"profile {path} cannot be looked for ({error.strerror}); run this as the user of the node, "
                "or correct delivery.profiles"
            ) from error

    @property
    def database_url(self) -> URL:
        """Where jobs, deliveries and the audit are; printed, it hides its password.

        Raises ConfigurationError when that cannot be read.
        """
        return self.database.address(self.node.data / "node.sqlite")

    @property
    def spool(self) -> Path:
        """Where instances and results are."""
        return self.node.data / "spool"

    @property
    def compiled(self) -> Path:
        """What workers compiled of their networks."""
        return self.node.data / "compiled"

    @property
    def anchors(self) -> Path:
        """The file of the daily anchors of the audit trail."""
        return self.audit.anchors or self.node.data / "audit-anchors.jsonl"
