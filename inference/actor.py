"""What runs on a machine of a cluster: resident models that answer for one volume after the other.

Plain Python; the program that owns it turns it into an actor of its cluster.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from inference.errors import InferenceError
from inference.labelmap import LesionMap
from inference.packed import PackedBundle, unpack
from inference.resident import ResidentModels
from inference.volume import Volume


class ModelNotResident(InferenceError):
    """The actor has not got this model (yet): send it, then ask again."""


class SegmentationActor:
    """Holds models and segments volumes with them, one at a time, on the device that it was given."""

    def __init__(self, device: str = "auto") -> None:
        self._models = ResidentModels(device)

    def device(self) -> str:
        """The device that it works on; asked first, to know that it is there."""
        return str(self._models.device)

    def load(self, packed: PackedBundle, in_use: Collection[str]) -> None:
        """Load a bundle; those whose digest is not `in_use` make room for it. Raises BundleError."""
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            self._models.load(unpack(packed, Path(folder)), in_use)

    def segment(self, volume: Volume, digest: str) -> LesionMap:
        """Find lesions. Raises ModelNotResident, UnsuitableVolume or OutOfMemory."""
        if digest not in self._models:
            raise ModelNotResident(f"model {digest[:12]} is not loaded on this actor")
        return self._models.segment(volume, digest)
