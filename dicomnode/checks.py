"""What `dicomnode check` finds out beyond the configuration file: peers, models, disk, database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from dicomnode.certificates import check_certificates
from dicomnode.deliver.sender import echo
from dicomnode.errors import TransientError
from dicomnode.records.db import Database, migrate, revision_of
from dicomnode.records.standing import missing_live, state_here
from dicomnode.settings import Settings
from dicomnode.spool import Spool
from inference.registry import find_bundles


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    subject: str
    good: bool
    detail: str


def check_node(settings: Settings) -> Iterator[Finding]:
    """Check one thing after the other, slow ones last."""
    yield _check_database(settings)
    yield _check_disk(settings)
    yield from _check_models(settings)
    yield _check_device()
    if settings.tls is not None:
        for good, detail in check_certificates(settings.tls):
            yield Finding("tls", good, detail)
    for peer in settings.peer:
        try:
            echo(settings.node.ae_title, peer)
            yield Finding(f"peer {peer.name}", True, f"{peer.ae_title} answers at {peer.host}:{peer.port}")
        except TransientError as error:
            yield Finding(f"peer {peer.name}", False, str(error))


def _check_database(settings: Settings) -> Finding:
    try:
        database = Database(settings.database_url)
        migrate(database)
        with database.snapshot() as session:
            revision = revision_of(session)
    except (SQLAlchemyError, OSError) as error:
        return Finding("database", False, f"{settings.database_url}: {type(error).__name__}; check node.data")
    return Finding("database", True, f"{settings.database_url}, schema {revision}")


def _check_disk(settings: Settings) -> Finding:
    spool = Spool(settings.spool)
    try:
        spool.prepare()
        free_gb = spool.free_bytes() / 1e9
    except OSError as error:
        return Finding("disk", False, f"{settings.spool} cannot be used ({error.strerror}); check node.data")
    wanted = settings.listener.minimum_free_gb
    return Finding("disk", free_gb >= wanted, f"{free_gb:.0f} GB free, at least {wanted:g} GB wanted")


def _check_models(settings: Settings) -> Iterator[Finding]:
    registry = find_bundles(settings.models.folder, settings.models.trusted_digests)
    with Database(settings.database_url).snapshot() as session:
        for name in registry.names:
            for bundle in registry.versions(name):
                state = state_here(session, settings.models, bundle)
                detail = f"{bundle.card.version}, {state}, digest {bundle.digest[:12]}"
                yield Finding(f"model {name}", True, detail)
            for sentence in missing_live(session, registry, name):
                yield Finding(f"model {name}", False, f"{sentence}; restore it or promote another")
    for folder, problem in registry.problems.items():
        yield Finding(f"model {folder.name}", False, problem)
    for route in settings.route:
        if route.model not in registry.names:
            yield Finding(f"route {route.name}", False, f"no usable model is called {route.model!r}")


def _check_device() -> Finding:
    from inference.engine import best_device

    device = best_device()
    detail = "no GPU found; models run on the CPU" if device.type == "cpu" else f"models run on {device}"
    return Finding("device", True, detail)
