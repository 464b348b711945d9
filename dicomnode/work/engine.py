"""Where the networks of a worker run: what it asks of that place, and the place that is the worker itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import structlog

from dicomnode.errors import TransientError
from dicomnode.loaded import let_go_of_what_ended
from dicomnode.work.share import EVERYTHING, Share
from inference.bundle import ModelBundle
from inference.compiled import keep_compiled_in
from inference.errors import NotCompiled
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

    def is_compiled(self, bundle: ModelBundle) -> bool:
        """Whether the network of a loaded model runs compiled, and so may round otherwise."""


class LocalEngine:
    """Runs them in this process."""

    def __init__(self, device: str, compile_in: Path | None = None) -> None:
        """Networks are compiled, and what comes of it is kept, in `compile_in`; None: they are not.

        Raises DeviceMissing, OSError.
        """
        self._models = ResidentModels(device)
        self._compiles = compile_in is not None
        if compile_in is not None:
            keep_compiled_in(compile_in)

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
        """Make a model resident, compiled where that is asked for and can be. Raises BundleError."""
        self._load(bundle, in_use)
        if self._compiles:
            self._compile(bundle)

    def segmenter(self, bundle: ModelBundle, in_use: Collection[str]) -> Segmenter:
        """What segments with this model, which is loaded now; a study waits for no compiler."""
        self._load(bundle, in_use)
        return lambda volume: self._models.segment(volume, bundle.digest)

    def is_compiled(self, bundle: ModelBundle) -> bool:
        """Whether it is."""
        return self._models.is_compiled(bundle.digest)

    def _load(self, bundle: ModelBundle, in_use: Collection[str]) -> None:
        started = time.monotonic()
        if self._models.load(bundle, in_use):
            let_go_of_what_ended()
            log_loaded(bundle, self.place, started)
            if self._models.device.type == "cuda" and not self._models.is_half(bundle.digest):
                log.warning("model_in_float32", model=bundle.card.name, version=bundle.card.version)

    def _compile(self, bundle: ModelBundle) -> None:
        about = {"model": bundle.card.name, "version": bundle.card.version, "place": self.place}
        started = time.monotonic()
        try:
            self._models.compile(bundle.digest)
        except NotCompiled as error:
            log.warning("model_not_compiled", **about, reason=str(error))
        if self.is_compiled(bundle):
            log.info("model_compiled", **about, duration_s=round(time.monotonic() - started, 2))


def log_loaded(bundle: ModelBundle, place: str, started: float) -> None:
    """Note how long a model took to load since `started` (time.monotonic)."""
    seconds = round(time.monotonic() - started, 2)
    log.info(
        "model_loaded", model=bundle.card.name, version=bundle.card.version, place=place, duration_s=seconds
    )
