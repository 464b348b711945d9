"""A node that has worked: a study with lesions, one without a model, a hostile one, failures of both kinds.

Received, routed and segmented by the node's own code, without a network.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from sqlalchemy import select

from dicomnode.assemble.assembly import Assembly
from dicomnode.config import load_settings
from dicomnode.deliver.answers import Fate
from dicomnode.deliver.delivery import settle
from dicomnode.deliver.sender import Response
from dicomnode.receive.arrival import Origin
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.records.model_tables import ComparisonRow
from dicomnode.records.moving import move_records
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow, StudyRow
from dicomnode.route.dispatch import Dispatch
from dicomnode.selftest.bundles import write_bundle
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.spool import Spool
from dicomnode.work.engine import LocalEngine
from dicomnode.work.worker import Worker
from inference.bundle import read_bundle
from inference.registry import find_bundles
from tests.dicomnode.parts import arrival, image, write_config
from tests.dicomnode.web.browsing import Page
from tests.phantoms import phantom

MORE = '[models]\nfolder = "models"\n[assembly]\nquiet_period_s = 0.1\n[web]\n'

LESIONS = "ACC-LESIONS"
PATIENT_ID = "PAT-4711"
NO_MODEL = "ACC-MR"
BROKEN = "ACC-BROKEN"
HOSTILE_ACCESSION = '"><img src=x>'
HOSTILE_PATIENT = "';DROP TABLE studies;--"
HOSTILE_DESCRIPTION = "<script>document.title='owned'</script>{{7*7}}"
HOSTILE_AE_TITLE = "<b>AE&\"'</b>"
"""Values that a hostile sender can put into a header or an association."""


@dataclass(frozen=True)
class Hospital:
    """Where it lies, and what it holds: study UIDs by accession number."""

    page: Page
    studies: dict[str, str]

    def copy(self, folder: Path) -> Page:
        """The same node with a database of its own, of the kind that the test wants; images are shared."""
        shutil.copytree(self.page.folder / "models", folder / "models")
        settings = load_settings(write_config(folder, MORE))
        if settings.database_url.get_backend_name() == "sqlite":
            (folder / "data").mkdir(mode=0o700)
            for file in (self.page.folder / "data").glob("node.sqlite*"):
                shutil.copy(file, folder / "data")
        else:
            target = Database(settings.database_url)
            move_records(self.page.database, target, settings.anchors, Audit("test"))
            target.engine.dispose()
        return Page(folder, MORE)


def build(folder: Path) -> Hospital:
    write_bundle(folder / "models" / "threshold")
    page = Page(folder, MORE)
    spool = Spool(page.settings.spool)
    spool.prepare()
    intake = Intake(spool, page.database, Audit("receiver"))
    files = write_series(
        phantom(spacing_mm=(4.0, 0.75, 0.75)).volume,
        folder / "series",
        SeriesIdentity(
            patient_id=PATIENT_ID,
            patient_name="Doe^Jane",
            accession_number=LESIONS,
            attributes={"WindowCenter": "60", "WindowWidth": "240"},
        ),
    )
    sent = [dcmread(file) for file in files]
    localizer = image(
        StudyInstanceUID=sent[0].StudyInstanceUID, SeriesInstanceUID="1.2.3.9", SeriesNumber=99,
        PatientID=PATIENT_ID, AccessionNumber=LESIONS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )  # fmt: skip
    magnetic = image(
        StudyInstanceUID="1.2.3.10", SeriesInstanceUID="1.2.3.10.1", Modality="MR", AccessionNumber=NO_MODEL
    )
    broken = image(StudyInstanceUID="1.2.3.11", SeriesInstanceUID="1.2.3.11.1", AccessionNumber=BROKEN)
    hostile = image(
        StudyInstanceUID="1.2.3.12", SeriesInstanceUID="1.2.3.12.1", Modality="MR",
        AccessionNumber=HOSTILE_ACCESSION, PatientID=HOSTILE_PATIENT, SeriesDescription=HOSTILE_DESCRIPTION,
    )  # fmt: skip
    for dataset in (*sent, localizer, magnetic, broken):
        intake.take(arrival(dataset))
    intake.take(arrival(hostile, origin=Origin(HOSTILE_AE_TITLE, "127.0.0.1", "LESIONNODE")))
    _work(page)
    _bury_deliveries(page)
    page.database.engine.dispose()
    with page.database.snapshot() as session:
        studies = {row.accession_number: row.study_instance_uid for row in session.scalars(select(StudyRow))}
    return Hospital(page, studies)


def _work(page: Page) -> None:
    assembly = Assembly(page.settings, page.database)
    while _states(page) != {"complete"}:
        assembly.close_complete_studies()
    registry = find_bundles(page.settings.models.folder)
    Dispatch(page.settings, page.database, registry, Audit("routing")).route_complete_studies()
    worker = Worker(page.settings, page.database, registry, LocalEngine("cpu"))
    while worker.work_one():
        pass
    with page.database.snapshot() as session:
        assert sorted(session.scalars(select(JobRow.state))) == ["failed", "succeeded"]


def _states(page: Page) -> set[str]:
    with page.database.snapshot() as session:
        return set(session.scalars(select(StudyRow.state)))


def _bury_deliveries(page: Page) -> None:
    """The archive takes the segmentation and refuses the reports for good."""
    with page.database.transaction() as session:
        for delivery in session.scalars(select(DeliveryRow)):
            delivery.state, delivery.attempt = "sending", 1
            kind = session.get_one(ResultRow, delivery.sop_instance_uid).kind
            accepted = kind == "seg"
            response = Response(
                Path(),
                Fate.ACCEPTED if accepted else Fate.REFUSED,
                "0x0000" if accepted else "0xA900 (data set does not match SOP class)",
            )
            settle(session, Audit("delivery"), delivery, response, page.settings.delivery)


def result_of(page: Page, kind: str) -> tuple[str, Dataset]:
    """UID and content of the one stored result of a kind."""
    with page.database.snapshot() as session:
        row = session.scalars(select(ResultRow).where(ResultRow.kind == kind)).one()
    return row.sop_instance_uid, dcmread(row.path)


def add_candidate(page: Page) -> str:
    """A candidate beside the live model, compared with it on two series; returns its digest."""
    models = page.folder / "models"
    live = read_bundle(models / "threshold").digest
    candidate = read_bundle(write_bundle(models / "candidate", version="1.1.0", threshold=90.0)).digest
    with page.database.transaction() as session:
        first, second = session.scalars(select(JobRow).order_by(JobRow.id))
        session.add_all(
            ComparisonRow(
                study_instance_uid=first.study_instance_uid, series_instance_uid=first.series_instance_uid,
                live_job_id=one.id, candidate_job_id=other.id, live_digest=live, candidate_digest=candidate,
                compared_at=first.created_at, live_voxels=10, candidate_voxels=12, common_voxels=10, dice=0.9,
                live_volume_mm3=volume, candidate_volume_mm3=1.1 * volume,
                found_by_both=3, only_live=0, only_candidate=1,
            )
            for one, other, volume in ((first, second, 8000.0), (second, first, 9000.0))
        )  # fmt: skip
    return candidate
