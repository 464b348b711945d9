"""An outbox with the results of one job, and a clock that a test moves."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage
from sqlalchemy import select

import dicomnode.deliver.breaker
import dicomnode.deliver.delivery
from dicomnode.config import load_settings
from dicomnode.deliver.delivery import Delivery
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, DestinationRow, JobRow, ResultRow, StudyRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import Settings
from tests.dicomnode.parts import Peer, image, save, write_config


class Clock:
    """The time as the outbox sees it; only the test moves it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now: datetime = utc_now() + timedelta(hours=1)  # later than all that a test adds
        for module in (dicomnode.deliver.breaker, dicomnode.deliver.delivery):
            patch.setattr(module, "utc_now", lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Outbox:
    """Results of one job, on their way to a peer."""

    def __init__(self, settings: Settings, database: Database, folder: Path) -> None:
        self.settings, self.database, self.folder = settings, database, folder
        self.delivery = Delivery(settings, database)
        now = utc_now()
        with database.transaction() as session:
            session.add(
                StudyRow(
                    study_instance_uid="1.2.3", patient_id="", accession_number="", calling_ae_title="PACS",
                    first_received_at=now, last_received_at=now,
                )
            )  # fmt: skip
            session.flush()
            session.add(
                JobRow(
                    study_instance_uid="1.2.3", series_instance_uid="1.2", generation=1, route="r",
                    destinations={}, model="m", model_digest="d", input_digest="i", notes={}, priority=0,
                    not_before=now, created_at=now,
                )
            )  # fmt: skip

    def add(
        self,
        uid: str,
        sop_class: str = CTImageStorage,
        destination: str = "PACS",
        size_bytes: int = 32,
    ) -> Path:
        dataset = image(SOPInstanceUID=uid, SOPClassUID=sop_class, PixelData=bytes(size_bytes))
        return self.add_file(save(dataset, self.folder / f"{uid}.dcm"), destination)

    def add_file(self, path: Path, destination: str = "PACS") -> Path:
        """A result that is there already."""
        meta = read_file_meta_info(path)
        uid, now = str(meta.MediaStorageSOPInstanceUID), utc_now()
        with self.database.transaction() as session:
            session.add(
                ResultRow(
                    sop_instance_uid=uid, job_id=1, kind="seg",
                    sop_class_uid=str(meta.MediaStorageSOPClassUID),
                    study_instance_uid="1.2.3", series_instance_uid="1.9", instance_number=1,
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    path=str(path), created_at=now,
                )
            )  # fmt: skip
            session.flush()
            session.add(DeliveryRow(sop_instance_uid=uid, job_id=1, destination=destination, not_before=now))
        return path

    def push(self) -> None:
        self.delivery.push(self.settings.peers["PACS"])

    def rows(self) -> list[DeliveryRow]:
        with self.database.snapshot() as session:
            return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))

    def states(self) -> list[str]:
        return [row.state for row in self.rows()]

    def run(self, hours: float, clock: Clock, step_s: float = 30.0) -> None:
        """Housekeeping's pushes while the time goes by."""
        end = clock.now + timedelta(hours=hours)
        while clock.now < end:
            self.push()
            clock.advance(step_s)

    def destination(self) -> DestinationRow:
        with self.database.snapshot() as session:
            return session.get_one(DestinationRow, "PACS")

    def change(self, **values: object) -> None:
        with self.database.transaction() as session:
            for row in session.scalars(select(DeliveryRow)):
                for name, value in values.items():
                    setattr(row, name, value)

    def end_pauses(self) -> None:
        """Everything that waits is due now, and the destination may be tried."""
        with self.database.transaction() as session:
            for row in session.scalars(select(DeliveryRow).where(DeliveryRow.state == "waiting")):
                row.not_before = utc_now()
            for destination in session.scalars(select(DestinationRow)):
                destination.not_before = None


def outbox_to(
    peer: Peer | None, database: Database, folder: Path, peer_port: int = 0, response_timeout_s: float = 30.0
) -> Outbox:
    """An outbox to `peer`, or to whatever listens on the port."""
    port = peer.port if peer else peer_port or free_port()
    path = write_config(folder, peer_port=port, response_timeout_s=response_timeout_s)
    return Outbox(load_settings(path), database, folder)
