"""Runs the networks of one worker in an actor of a Ray cluster.

The worker owns its actor: it starts it, sends it one volume at a time, and when the worker ends for
whatever reason Ray ends the actor too. So leases, time-outs and retries stay where they are, in the
database, and nothing waits in a queue that is not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import contextmanager
from typing import Any, NoReturn

import ray
import structlog
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from dicomnode.settings.inference import InferenceSettings, PoolSettings
from dicomnode.work.engine import EngineLost, Segmenter, log_loaded
from dicomnode.work.share import Share
from inference.actor import ModelNotResident, SegmentationActor
from inference.bundle import ModelBundle
from inference.errors import InferenceError
from inference.labelmap import LesionMap
from inference.packed import pack
from inference.registry import Registry
from inference.volume import Volume

START_STEP_S = 1.0
"""Between two looks at an actor that starts, so that the worker can stop meanwhile."""
GONE = (RayActorError, WorkerCrashedError, ObjectLostError, RaySystemError)

log = structlog.get_logger()


def connect(settings: InferenceSettings) -> None:
    """Join the cluster. Raises EngineLost when it cannot be reached."""
    if ray.is_initialized():
        return
    try:
        ray.init(
            address=settings.address,
            namespace=settings.namespace,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineLost(
            f"no Ray cluster at {settings.address!r} ({error}); start one, or correct inference.address"
        ) from error


def demand_of(pool: PoolSettings) -> dict[str, float]:
    """What one actor of a pool asks the cluster for, in Ray's resources (memory in bytes)."""
    return {"CPU": pool.cpus, "GPU": pool.gpus, "memory": int((pool.memory_gb or 0) * 1e9)}


def room_for(settings: InferenceSettings) -> dict[str, int]:
    """How many actors of each pool the machines of the cluster could hold, were the pool alone there.

    Raises EngineLost when the cluster cannot be reached.
    """
    connect(settings)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    return {
        pool.name: sum(
            int(min(machine.get(name, 0.0) / amount for name, amount in demand_of(pool).items() if amount))
            for machine in machines
        )
        for pool in settings.pool
    }


class RayEngine:
    """One actor of a pool, as its worker sees it. `number` counts the workers of the pool from 0."""

    def __init__(
        self, settings: InferenceSettings, pool: PoolSettings, number: int, registry: Registry
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._registry = registry
        kept = pool.actors if pool.resident_actors is None else pool.resident_actors
        self._stays = number < kept
        self._actor: Any = None
        self._starting: Any = None
        self._device = ""
        self._used_at = time.monotonic()

    @property
    def place(self) -> str:
        """The pool, and the device there once it is known."""
        return " ".join(filter(None, ["ray", self._pool.name, self._device]))

    def share(self) -> Share:
        """The models of its pool; the last pool takes all that the others do not."""
        here: set[str] = set()
        elsewhere: set[str] = set()
        for bundle in self._registry.bundles.values():
            pool = self._settings.pool_of(bundle.card.name, bundle.card.modality)
            (here if pool.name == self._pool.name else elsewhere).add(bundle.card.name)
        rest = self._pool.takes_the_rest
        return Share(frozenset(elsewhere if rest else here), others=rest)

    def ready(self, work_waits: Callable[[], bool]) -> bool:
        """Whether the actor is there. It is started for work, and may give its place back without.

        While the cluster has no room the request for it stands, which is what makes an autoscaler act.
        """
        waits = work_waits()
        if self._actor is None and not ((self._stays or waits) and self._start()):
            return False
        if self._starting is not None and not self._has_started():
            return False
        if waits or self._stays:
            self._used_at = time.monotonic()
        elif time.monotonic() - self._used_at > self._pool.idle_s:
            self._drop("it had nothing to do")
            return False
        return self._actor is not None

    def load(self, bundle: ModelBundle, in_use: Collection[str]) -> None:
        """Send a model to the actor. Raises BundleError, EngineLost."""
        started = time.monotonic()
        self._ask(self._actor.load, pack(bundle), frozenset(in_use))
        log_loaded(bundle, self.place, started)

    def segmenter(self, bundle: ModelBundle, in_use: Collection[str]) -> Segmenter:
        """What segments with this model on the actor; the actor gets the model when it has not got it."""

        def segment(volume: Volume) -> LesionMap:
            there = ray.put(volume)
            try:
                return self._segment(there, bundle)
            except ModelNotResident:
                self.load(bundle, in_use)
                return self._segment(there, bundle)

        return segment

    def is_compiled(self, bundle: ModelBundle) -> bool:
        """Never: an actor may be gone before a compiler is done."""
        return False

    def _segment(self, volume: Any, bundle: ModelBundle) -> LesionMap:
        found = self._ask(self._actor.segment, volume, bundle.digest)
        assert isinstance(found, LesionMap)
        return found

    def _ask(self, method: Any, *arguments: Any) -> Any:
        """Call a method of the actor and wait. Its own errors come as they are; raises EngineLost."""
        with self._noticing_loss():
            return ray.get(method.remote(*arguments))

    def _start(self) -> bool:
        asked = demand_of(self._pool)
        kind = ray.remote(SegmentationActor).options(
            num_gpus=asked["GPU"],
            num_cpus=asked["CPU"],
            memory=asked["memory"] or None,
            max_restarts=0,
            max_task_retries=0,
        )
        try:
            connect(self._settings)
            with self._noticing_loss():
                self._actor = kind.remote("auto" if self._pool.gpus else "cpu")
                self._starting = self._actor.device.remote()
        except EngineLost as error:
            log.error("actor_not_started", pool=self._pool.name, reason=str(error))
            return False
        log.info("actor_asked_for", pool=self._pool.name)
        return True

    def _has_started(self) -> bool:
        try:
            with self._noticing_loss():
                self._device = ray.get(self._starting, timeout=START_STEP_S)
        except GetTimeoutError:
            return False
        except EngineLost as error:
            log.error("actor_not_started", pool=self._pool.name, reason=str(error))
            return False
        self._starting = None
        log.info("actor_started", pool=self._pool.name, device=self._device)
        return True

    @contextmanager
    def _noticing_loss(self) -> Any:
        try:
            yield
        except RayTaskError as error:
            _raise_cause(error)
        except GONE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._drop(reason)
            raise EngineLost(f"the actor of pool {self._pool.name!r} was lost ({reason})") from error

    def _drop(self, reason: str) -> None:
        log.warning("actor_dropped", pool=self._pool.name, reason=reason)
        actor, self._actor, self._starting, self._device = self._actor, None, None, ""
        if actor is not None:
            ray.kill(actor)


def _raise_cause(error: RayTaskError) -> NoReturn:
    """The error as the actor raised it, when it is one of ours."""
    if isinstance(error.cause, InferenceError):
        raise error.cause from error
    raise error
