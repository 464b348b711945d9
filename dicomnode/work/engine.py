"""Where the networks of a worker run: what it asks of that place, and the place that is the worker itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from dicomnode.errors import TransientError
from dicomnode.loaded import let_go_of_what_ended
from dicomnode.work.share import EVERYTHING, Share
from inference.bundle import ModelBundle
from inference.labelmap import LesionMap
from inference.resident import ResidentModels
from inference.volume import Volume

Segmenter = Callable[[Volume], LesionMap]

log = structlog.get_logger()


class EngineLost(TransientError):
    """The process that ran the network is gone, with the work it had; a new one starts at the next job."""


class Engine(Protocol):
    """Runs networks for one worker, one volume at a time."""

    @property
    def place(self) -> str:
        """Where it runs, for the audit: a device, or a pool of a cluster."""

    def share(self) -> Share:
        """Which jobs it can take now."""

    def ready(self, work_waits: Callable[[], bool]) -> bool:
        """Whether it could begin with a volume now; what is needed for that is begun."""

    def load(self, bundle: ModelBundle, in_use: Collection[str]) -> None:
        """Make a model resident. Raises BundleError, EngineLost."""

    def segmenter(self, bundle: ModelBundle, in_use: Collection[str]) -> Segmenter:
        """What segments with this model; it raises InferenceError or EngineLost."""


class LocalEngine:
    """Runs them in this process."""

    def __init__(self, device: str) -> None:
        self._models = ResidentModels(device)

    @property
    def place(self) -> str:
        """The device."""
        return str(self._models.device)

    def share(self) -> Share:
        """All."""
        return EVERYTHING

    def ready(self, work_waits: Callable[[], bool]) -> bool:
        """Always."""
        return True

    def load(self, bundle: ModelBundle, in_use: Collection[str]) -> None:
        """Make a model resident. Raises BundleError."""
        started = time.monotonic()
        if self._models.load(bundle, in_use):
            let_go_of_what_ended()
            log_loaded(bundle, self.place, started)

    def segmenter(self, bundle: ModelBundle, in_use: Collection[str]) -> Segmenter:
        """What segments with this model, which is loaded now."""
        self.load(bundle, in_use)
        return lambda volume: self._models.segment(volume, bundle.digest)


def log_loaded(bundle: ModelBundle, place: str, started: float) -> None:
    """Note how long a model took to load since `started` (time.monotonic)."""
    seconds = round(time.monotonic() - started, 2)
    log.info(
        "model_loaded", model=bundle.card.name, version=bundle.card.version, place=place, duration_s=seconds
    )
