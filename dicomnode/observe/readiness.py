"""Whether the node can take studies at this moment."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from sqlalchemy import false, update
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.observe.machine import free_bytes
from dicomnode.records.db import Database, newest_revision, revision_of
from dicomnode.records.revisions import can_work_with
from dicomnode.records.watch_tables import PeerCheckRow
from dicomnode.settings.node import Settings

CONNECTION_TIMEOUT_S = 3.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


@dataclass(frozen=True)
class Condition:
    """One thing that must hold; the detail says what was found, without secrets."""

    name: str
    good: bool
    detail: str


def readiness(settings: Settings, database: Database) -> list[Condition]:
    """Every condition, whether it holds or not."""
    return [_database(database), _schema(database), _disk(settings), _listener(settings)]


def _database(database: Database) -> Condition:
    """Takes the lock of a writer and asks for a change of no row."""
    try:
        with database.transaction() as session:
            session.execute(update(PeerCheckRow).where(false()).values(problem=None))
    except SQLAlchemyError as error:
        return Condition("database", False, f"cannot be written ({type(error).__name__})")
    return Condition("database", True, "can be written")


def _schema(database: Database) -> Condition:
    newest = newest_revision()
    try:
        with database.snapshot() as session:
            revision = revision_of(session)
    except SQLAlchemyError as error:
        return Condition("schema", False, f"cannot be read ({type(error).__name__})")
    return Condition("schema", can_work_with(revision, newest), f"revision {revision}, newest known {newest}")


def _disk(settings: Settings) -> Condition:
    try:
        free_gb = free_bytes(settings.spool) / 1e9
    except OSError as error:
        return Condition("disk", False, f"cannot be used ({error.strerror})")
    wanted_gb = settings.listener.minimum_free_gb
    return Condition("disk", free_gb >= wanted_gb, f"{free_gb:.1f} GB free, {wanted_gb:g} GB needed")


def _listener(settings: Settings) -> Condition:
    """Whether the DICOM ports take connections.

    No association is asked for: every one is audited, and this question comes every few seconds.
    """
    host = ANY_ADDRESS.get(settings.node.host, settings.node.host)
    for port in settings.dicom_ports:
        try:
            socket.create_connection((host, port), CONNECTION_TIMEOUT_S).close()
        except OSError as error:
            return Condition("listener", False, f"port {port} does not answer ({error.strerror or error})")
    told = " and ".join(map(str, settings.dicom_ports))
    return Condition("listener", True, f"port {told} takes connections")
