"""Models that stay in memory between volumes, on one device."""

from __future__ import annotations

from collections.abc import Collection

from inference.bundle import ModelBundle
from inference.device import device_named, stay_on
from inference.engine import Model
from inference.labelmap import LesionMap
from inference.predict import segment
from inference.volume import Volume


class ResidentModels:
    """Loads each model at its first use and keeps it while it is in use. One per process and device."""

    def __init__(self, device: str = "auto") -> None:
        """Raises DeviceMissing."""
        self.device = device_named(device)
        stay_on(self.device)
        self._models: dict[str, Model] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._models

    def load(self, bundle: ModelBundle, in_use: Collection[str]) -> bool:
        """Load a bundle unless it is here; those whose digest is not `in_use` make room for it.

        Returns whether it had to be loaded. Raises BundleError when the weights do not fit.
        """
        if bundle.digest in self._models:
            return False
        self._models = {digest: model for digest, model in self._models.items() if digest in in_use}
        model = Model(bundle, self.device)
        model.look()
        model.check_precision()
        self._models[bundle.digest] = model
        return True

    def is_half(self, digest: str) -> bool:
        """Whether a loaded model computes in half precision."""
        return self._models[digest].is_half

    def compile(self, digest: str) -> None:
        """Run a loaded model compiled from now on, where it sees windows of one size. Raises NotCompiled."""
        self._models[digest].compile()

    def is_compiled(self, digest: str) -> bool:
        """Whether a model runs compiled."""
        return digest in self._models and self._models[digest].is_compiled

    def segment(self, volume: Volume, digest: str) -> LesionMap:
        """Find the lesions of `volume` with a loaded model.

        Raises KeyError when it is not loaded, UnsuitableVolume or OutOfMemory as `predict.segment` does.
        """
        return segment(volume, self._models[digest])
