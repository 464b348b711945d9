"""One node and what its administrator does with the versions of a model."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from dicomnode.models.life import Life
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.records.standing import state_here
from dicomnode.records.tables import JobRow
from dicomnode.selftest.bundles import write_bundle
from dicomnode.settings.node import Settings
from dicomnode.work.orders import Order, create_job
from inference.bundle import ModelBundle
from inference.registry import Registry
from tests.dicomnode.parts import series_of

ADMIN = Audit("admin jdoe")
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


def write_versions(folder: Path) -> Path:
    """Three versions of one model, all live by their cards."""
    for version in VERSIONS:
        write_bundle(folder / version, version=version)
    return folder


class Site:
    """Three versions of "threshold" at one node: the first is live, the others are candidates."""

    def __init__(self, settings: Settings, database: Database, registry: Registry) -> None:
        self.settings, self.database, self.registry = settings, database, registry
        self.life = Life(settings, registry, ADMIN)

    def enrol(self) -> None:
        with self.database.transaction() as session:
            self.life.enrol(session)

    def bundle(self, version: str) -> ModelBundle:
        return self.registry.find(f"threshold@{version}")

    def promote(self, version: str, reason: str = "better") -> None:
        with self.database.transaction() as session:
            self.life.promote(session, self.bundle(version), reason)

    def demote(self, version: str) -> None:
        with self.database.transaction() as session:
            self.life.demote(session, self.bundle(version), "worse")

    def retire(self, version: str) -> None:
        with self.database.transaction() as session:
            self.life.retire(session, self.bundle(version), "broken")

    def rollback(self) -> None:
        with self.database.transaction() as session:
            self.life.rollback(session, "threshold", "complaints")

    def states(self) -> list[str]:
        with self.database.snapshot() as session:
            return [state_here(session, self.settings.models, self.bundle(v)).value for v in VERSIONS]

    def job(self, version: str, *, send: bool = True, state: str = "queued", uid: str = "1.2.1") -> int:
        series = series_of(SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.1")
        order = Order(series, 1, self.settings.route[0], self.bundle(version), send)
        with self.database.transaction() as session:
            job, _ = create_job(session, ADMIN, order)
            job.state = state
            return job.id

    def jobs(self) -> list[JobRow]:
        with self.database.snapshot() as session:
            return list(session.scalars(select(JobRow).order_by(JobRow.id)))
