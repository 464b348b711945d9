"""Checks of the node itself: database, disk, models, device, clock, keys, certificates; then its peers."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.certificates import check_certificates
from dicomnode.checks.clock import check_clock
from dicomnode.checks.files import check_files
from dicomnode.checks.finding import Finding, note, ok, wrong
from dicomnode.checks.peers import check_calls, check_peer
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.mounts import locks_reach_others, may_be_shared, mount_of
from dicomnode.observe.machine import gpu_memory
from dicomnode.opening import opened_database
from dicomnode.records.db import Database, revision_of
from dicomnode.records.standing import missing_live, state_here
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from inference.errors import DeviceMissing
from inference.registry import find_bundles

DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
"""Settings of PostgreSQL without which a commit is not on the disk."""


def check_node(settings: Settings, listen_s: float = 0.0) -> Iterator[Finding]:
    """Check one thing after the other, slow ones last. `listen_s`: how long to wait for peers to call."""
    finding, database = _open_database(settings)
    yield finding
    yield _check_disk(settings)
    yield from _check_sharing(settings)
    if database is not None:
        yield from _check_durability(database)
        yield from _check_models(settings, database)
        yield check_clock(database)
    yield from _check_devices(settings)
    yield from check_files(settings)
    yield from _check_what_is_left_out(settings)
    if settings.tls is not None:
        for good, detail in check_certificates(settings.tls):
            yield (ok if good else wrong)("tls", detail)
    for peer in settings.peer:
        yield from check_peer(settings, peer)
    if database is not None:
        yield from check_calls(settings, database, listen_s)


def _open_database(settings: Settings) -> tuple[Finding, Database | None]:
    """The database with its schema up to date; None when it cannot be used."""
    try:
        database = opened_database(settings)
        with database.snapshot() as session:
            revision = revision_of(session)
    except ConfigurationError as error:
        return wrong("database", str(error)), None
    except (SQLAlchemyError, OSError) as error:
        return wrong(
            "database", f"{settings.database_url}: {type(error).__name__}; check [database] or node.data"
        ), None
    return ok("database", f"{settings.database_url}, schema {revision}"), database


def _check_durability(database: Database) -> Iterator[Finding]:
    """What an administrator of PostgreSQL can turn off, and no image would be safe any more."""
    if database.engine.dialect.name != "postgresql":
        return
    with database.snapshot() as session:
        off = [name for name in DURABLE if session.scalar(text(f"SHOW {name}")) == "off"]
    if off:
        told = ", ".join(off)
        yield wrong("database", f"{told}: off, so what was acknowledged can be lost; turn it on")


def _check_disk(settings: Settings) -> Finding:
    spool = Spool(settings.spool)
    try:
        spool.prepare()
        free_gb = spool.free_bytes() / 1e9
    except OSError as error:
        return wrong("disk", f"{settings.spool} cannot be used ({error.strerror}); check node.data")
    wanted = settings.listener.minimum_free_gb
    said = ok if free_gb >= wanted else wrong
    return said("disk", f"{free_gb:.0f} GB free, at least {wanted:g} GB wanted")


def _check_sharing(settings: Settings) -> Iterator[Finding]:
    """What a network file system must do so that several machines can share the spool."""
    mount = mount_of(settings.spool)
    if not may_be_shared(mount):
        return
    if locks_reach_others(mount):
        yield ok("disk", f"{mount.kind}: other machines see its locks")
        return
    yield note(
        "disk",
        f"{mount.kind}: other machines do not see its locks, so what a receiver had acknowledged when its "
        "machine died waits for that machine; mount it with locks (NFSv4, CephFS) if several share it",
    )


def _check_models(settings: Settings, database: Database) -> Iterator[Finding]:
    registry = find_bundles(settings.models.folder, settings.models.trusted_digests)
    with database.snapshot() as session:
        for name in registry.names:
            for bundle in registry.versions(name):
                state = state_here(session, settings.models, bundle)
                yield ok(f"model {name}", f"{bundle.card.version}, {state}, digest {bundle.digest[:12]}")
            for sentence in missing_live(session, registry, name):
                yield wrong(f"model {name}", f"{sentence}; restore it or promote another")
    for folder, problem in registry.problems.items():
        yield wrong(f"model {folder.name}", problem)
    for name in sorted(settings.models.states.keys() - set(registry.names)):
        yield note("models.states", f"no usable model is called {name!r}; correct the name, or take it out")
    for route in settings.route:
        if route.model not in registry.names:
            yield wrong(f"route {route.name}", f"no usable model is called {route.model!r}")


def _check_what_is_left_out(settings: Settings) -> Iterator[Finding]:
    """What a node starts without, and hardly anybody means."""
    if not settings.peer:
        yield note("peer", "there is none, so nobody may send; add a [[peer]]")
    if not settings.route:
        yield note("route", "there is none, so no model sees anything; add a [[route]]")
    if not settings.models.folder.is_dir():
        yield note("models.folder", f"{settings.models.folder} is no folder; correct it, or put models there")
    if settings.web is not None and settings.web.https and not settings.web.proxies:
        yield note(
            "web.proxies",
            "not set although https = true: every visitor has the address of the proxy, so that wrong "
            "passwords of one close the login for all; name the proxy there",
        )


def _check_devices(settings: Settings) -> Iterator[Finding]:
    yield from _check_cluster(settings) if settings.inference.engine == "ray" else _check_own(settings)


def _check_cluster(settings: Settings) -> Iterator[Finding]:
    try:
        from dicomnode.work.cluster import room_for
    except ImportError as error:
        yield wrong("cluster", f"Ray is not installed ({error}); install the extra `ray` of this package")
        return
    try:
        room = room_for(settings.inference)
    except TransientError as error:
        yield wrong("cluster", str(error))
        return
    for pool in settings.inference.pool:
        asked = f"pool {pool.name}: {pool.actors} actor(s) of {pool.gpus:g} GPU and {pool.cpus:g} CPU"
        here = room[pool.name]
        if here >= pool.actors:
            yield ok("cluster", f"{asked}; all of them fit")
        else:
            yield note("cluster", f"{asked}; {here} fit now, the others wait until it has grown")


def _check_own(settings: Settings) -> Iterator[Finding]:
    import torch

    from inference.device import device_named

    memory = {gpu.name: gpu for gpu in gpu_memory()}
    for wanted in settings.worker.devices:
        try:
            device = device_named(wanted)
            torch.zeros(1, device=device)
        except (DeviceMissing, RuntimeError) as error:
            yield wrong("device", f"{wanted} cannot be used ({str(error).splitlines()[0]})")
            continue
        if device.type == "cpu":
            yield (note if wanted == "auto" else ok)(
                "device",
                "no GPU found; models run on the CPU" if wanted == "auto" else "models run on the CPU",
            )
            continue
        name = f"cuda:{device.index or 0}"
        free = (
            f", {(memory[name].total_bytes - memory[name].used_bytes) / 1e9:.0f} GB free"
            if name in memory
            else ""
        )
        yield ok("device", f"models run on {name}{free}")
