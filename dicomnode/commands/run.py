"""Commands that run the node: serve, and each of its roles on its own."""

from __future__ import annotations

import faulthandler
import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.commands.options import DEFAULT_CONFIG, ConfigOption, open_node
from dicomnode.errors import ConfigurationError
from dicomnode.loaded import keep_what_is_loaded
from dicomnode.logs import configure_logging
from dicomnode.models.life import Life
from dicomnode.processes import stop_event, supervise
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.configuration import note_configuration
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from inference.registry import Registry, find_bundles

if TYPE_CHECKING:
    from dicomnode.work.engine import Engine

log = structlog.get_logger()


def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the whole node on this machine: receiver, housekeeping and workers.

    Every role is a process of its own and is started again when it dies. Stop with Ctrl-C or SIGTERM.
    """
    configure_logging("serve")
    settings, database = open_node(config)
    registry = usable_models(settings)
    actor = Audit("serve")
    with database.transaction() as session:
        Life(settings, registry, actor).enrol(session)
        note_configuration(session, actor, settings, _digest(config))
        actor.record(
            session,
            Event.NODE_STARTED,
            Subject(),
            ae_title=settings.node.ae_title,
            port=settings.dicom_ports[-1],
            configuration_sha256=_digest(config),
            models={f"{b.card.name} {b.card.version}": b.digest for b in registry.bundles.values()},
        )
    spool = Spool(settings.spool)
    spool.prepare()
    _record_what_was_acknowledged(spool, database)  # before a worker could read a file that is torn
    supervise(settings, config, partial(_record_death, database))


def _digest(config: Path) -> str:
    return hashlib.sha256(config.read_bytes()).hexdigest()


def _record_death(database: Database, role: str, exit_status: int) -> None:
    """Note it in the audit; a database that cannot be written must not end the supervisor too."""
    try:
        with database.transaction() as session:
            Audit("serve").record(session, Event.PROCESS_DIED, Subject(), role=role, exit_status=exit_status)
    except SQLAlchemyError as error:
        log.error("death_not_recorded", role=role, error=type(error).__name__)


def receive(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the receiver alone: C-ECHO and C-STORE on the configured port."""
    configure_logging("receive")
    settings, database = open_node(config)
    from dicomnode.receive.acknowledging import recorder_in_a_process
    from dicomnode.receive.listener import Listener

    spool = Spool(settings.spool)
    spool.prepare()
    spool.remove_leftovers("studies")
    _record_what_was_acknowledged(spool, database)
    stopping = stop_event()
    listener = Listener(settings, database, spool, recorder_in_a_process(spool, database))
    try:
        listener.start()
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {settings.node.host}, port {' and '.join(map(str, settings.dicom_ports))} "
            f"({error.strerror}); stop what uses the port, or change node.host, node.port or tls.port"
        ) from error
    keep_what_is_loaded()
    stopping.wait()
    listener.stop()


def _record_what_was_acknowledged(spool: Spool, database: Database) -> None:
    """What receivers that are gone left in their journals becomes files and rows; torn files are mended."""
    from dicomnode.receive.ownership import RECORDING_PATIENCE_S
    from dicomnode.receive.recorder import Recorder

    Recorder(spool, database, Audit("receiver")).recover(RECORDING_PATIENCE_S)


def housekeep(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the clockwork alone: complete and route studies, recover jobs, deliver results."""
    configure_logging("housekeep")
    settings, database = open_node(config)
    with database.transaction() as session:
        note_configuration(session, Audit("housekeeping"), settings, _digest(config))
    from dicomnode.housekeeping import Housekeeping

    housekeeping = Housekeeping(settings, database, usable_models(settings))
    keep_what_is_loaded()
    housekeeping.run(stop_event())


def work(
    config: ConfigOption = DEFAULT_CONFIG,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    pool: Annotated[
        str | None, typer.Option(help="Run the networks in an actor of this pool of the Ray cluster.")
    ] = None,
    number: Annotated[int, typer.Option(min=0, help="Which worker of the pool this is, from 0.")] = 0,
) -> None:
    """Run one worker: lease jobs and segment with resident models, on one device or in a cluster."""
    configure_logging("work")
    settings, database = open_node(config)
    stopping = stop_event()
    faulthandler.enable()  # a crash inside native code says where
    from dicomnode.work.worker import Worker

    registry = usable_models(settings)
    engine = _actor(settings, registry, pool, number) if pool else _local(settings, device)
    Worker(settings, database, registry, engine).run(stopping)


def _local(settings: Settings, device: str) -> Engine:
    from dicomnode.work.engine import LocalEngine

    return LocalEngine(device, settings.compiled if settings.worker.compile == "auto" else None)


def _actor(settings: Settings, registry: Registry, name: str, number: int) -> Engine:
    pool = next((pool for pool in settings.inference.pool if pool.name == name), None)
    if pool is None:
        known = ", ".join(pool.name for pool in settings.inference.pool)
        raise ConfigurationError(f"no inference.pool is called {name!r} (known: {known})")
    try:
        from dicomnode.work.cluster import RayEngine
    except ImportError as error:
        raise ConfigurationError(
            f'inference.engine "ray" needs Ray ({error}); install the extra `ray` of this package'
        ) from error
    return RayEngine(settings.inference, pool, number, registry)


def usable_models(settings: Settings) -> Registry:
    """The bundles of the models folder. Raises ConfigurationError when a route's model is not there."""
    registry = find_bundles(settings.models.folder, settings.models.trusted_digests)
    missing = [route for route in settings.route if route.model not in registry.names]
    if missing:
        known = ", ".join(registry.names) or "none"
        lines = [
            f"  route {route.name!r}: no usable model {route.model!r} in {settings.models.folder} "
            f"(known: {known}); correct route.model or add the bundle"
            for route in missing
        ]
        lines += [f"  {folder.name}: {problem}" for folder, problem in registry.problems.items()]
        raise ConfigurationError("\n".join(["models and routes do not fit:", *lines]))
    return registry
