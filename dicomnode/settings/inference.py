"""What can be set about where models run: in the workers themselves, or on a Ray cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dicomnode.settings.section import Name, Section


class PoolSettings(Section):
    """Actors of one kind on the cluster. Each has a worker process on the node that keeps it busy."""

    name: Name
    models: tuple[str, ...] = ()
    """Models that run here, by name."""
    modalities: tuple[str, ...] = ()
    """Models of these modalities run here too. Without both, all that no earlier pool takes."""
    actors: int = Field(default=1, ge=1)
    """As many as this when jobs wait."""
    resident_actors: int | None = Field(default=None, ge=0)
    """So many stay when there is nothing to do. Not set: all."""
    gpus: float = Field(default=1.0, ge=0.0)
    """GPUs of each actor; 0.25 lets four share one, 0 runs on the CPU."""
    cpus: float = Field(default=1.0, gt=0.0)
    memory_gb: float | None = Field(default=None, gt=0.0)
    """Main memory that each actor asks the cluster for."""
    idle_s: float = Field(default=300.0, gt=0.0)
    """After so long without work, an actor above `resident_actors` gives its place back."""

    @model_validator(mode="after")
    def _sensible(self) -> PoolSettings:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus {self.gpus:g} must be a part of one, or whole ones")
        if self.resident_actors is not None and self.resident_actors > self.actors:
            raise ValueError(f"resident_actors {self.resident_actors} exceeds actors {self.actors}")
        return self

    @property
    def takes_the_rest(self) -> bool:
        """Whether it is the pool of all models that have no other."""
        return not self.models and not self.modalities


class InferenceSettings(Section):
    """Where networks run."""

    engine: Literal["local", "ray"] = "local"
    """In the worker processes, or in actors of a Ray cluster."""
    address: str = "auto"
    """The cluster: `host:port` of its head, or "auto" for the one that this machine has joined."""
    namespace: str = Field(default="dicomnode", min_length=1)
    pool: tuple[PoolSettings, ...] = (PoolSettings(name="default"),)

    @model_validator(mode="after")
    def _every_model_has_a_pool(self) -> InferenceSettings:
        names = [pool.name for pool in self.pool]
        if len(set(names)) != len(names):
            raise ValueError(f"pools need names of their own: {', '.join(names)}")
        takes_the_rest = [pool.takes_the_rest for pool in self.pool]
        if takes_the_rest != [False] * (len(names) - 1) + [True]:
            raise ValueError(
                "the last pool, and no other, must be without models and modalities: it takes the rest"
            )
        return self

    def pool_of(self, model: str, modality: str) -> PoolSettings:
        """The first pool that takes a model."""
        return next(
            pool
            for pool in self.pool
            if pool.takes_the_rest or model in pool.models or modality in pool.modalities
        )
