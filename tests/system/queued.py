"""Studies that have arrived and are routed, so that jobs wait for workers, without the other roles."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from sqlalchemy import select

from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import StudyRow
from dicomnode.route.dispatch import Dispatch
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from inference.registry import find_bundles
from inference.volume import Volume
from tests.dicomnode.parts import arrival


def queue_jobs(settings: Settings, database: Database, volume: Volume, count: int, folder: Path) -> None:
    """Queue so many jobs, each of a study of its own; `folder` is for the files that are sent."""
    spool = Spool(settings.spool)
    spool.prepare()
    intake = Intake(spool, database, Audit("receiver"))
    for _ in range(count):
        identity = SeriesIdentity()
        for path in write_series(volume, folder / identity.study_instance_uid, identity):
            intake.take(arrival(dcmread(path)))
    with database.transaction() as session:
        for study in session.scalars(select(StudyRow).where(StudyRow.state == "receiving")):
            study.state, study.completed_by, study.completed_at = "complete", "quiet_period", utc_now()
    registry = find_bundles(settings.models.folder)
    Dispatch(settings, database, registry, Audit("routing")).route_complete_studies()
