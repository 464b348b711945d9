"""Storage commitment with a real Orthanc, in both directions, by the listener and the steps of housekeeping.

Not covered: the whole node as its own processes; tests/dicomnode/test_commitment.py has the cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from sqlalchemy import select

from dicomnode.config import load_settings
from dicomnode.deliver.commitment import Commitment
from dicomnode.deliver.commitment_reports import CommitmentReports
from dicomnode.receive.listener import Listener
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool
from tests.dicomnode.outbox import Outbox
from tests.dicomnode.parts import events, image, save
from tests.system.node import AE_TITLE, wait_for
from tests.system.orthanc import AE, Orthanc

pytestmark = pytest.mark.real_parts

CONFIG = """
[node]
ae_title = "{node}"
host = "127.0.0.1"
port = {port}
data = "data"

[listener]
minimum_free_gb = 0.0

[[peer]]
name = "PACS"
ae_title = "{orthanc}"
host = "127.0.0.1"
port = {orthanc_port}
may_send = true
storage_commitment = true
"""


@dataclass
class Place:
    settings: Settings
    database: Database
    orthanc: Orthanc

    @property
    def peer(self) -> PeerSettings:
        return self.settings.peer[0]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", port, forward=False).start()
    config = tmp_path / "node.toml"
    config.write_text(
        CONFIG.format(node=AE_TITLE, port=port, orthanc=AE, orthanc_port=orthanc.dicom_port), "utf-8"
    )
    settings = load_settings(config)
    database = Database(settings.database_url)
    migrate(database)
    spool = Spool(settings.spool)
    spool.prepare()
    listener = Listener(settings, database, spool)
    listener.start()
    try:
        yield Place(settings, database, orthanc)
    finally:
        listener.stop()
        orthanc.stop()
        database.engine.dispose()


def test_orthanc_commits_to_our_results_and_says_which_it_has_lost(place: Place, tmp_path: Path) -> None:
    outbox = Outbox(place.settings, place.database, tmp_path)
    uids = ["1.7.1", "1.7.2"]
    for uid in uids:
        outbox.add(uid)
    outbox.push()
    assert outbox.states() == ["stored", "stored"]
    (lost,) = place.orthanc.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": uids[1]}})
    place.orthanc.delete(f"/instances/{lost}")
    commitment = Commitment(place.settings, place.database)
    commitment.ask(place.peer)
    wait_for(lambda: outbox.states() == ["delivered", "waiting"], "Orthanc has reported")
    assert outbox.rows()[1].last_status == "not committed: 0112 no such object instance"
    outbox.change(not_before=outbox.rows()[0].delivered_at)
    outbox.push()
    commitment.ask(place.peer)
    wait_for(lambda: outbox.states() == ["delivered", "delivered"], "Orthanc has committed to the second")


def test_orthanc_learns_what_we_commit_to(place: Place, tmp_path: Path) -> None:
    paths = [save(image(SOPClassUID=CTImageStorage), tmp_path / f"{number}.dcm") for number in range(2)]
    place.orthanc.upload(paths)
    ids = place.orthanc.get("/instances")
    sent = place.orthanc.post("/modalities/NODE/store", {"Resources": ids, "StorageCommitment": False})
    assert sent["FailedInstancesCount"] == 0
    assert committed(place, ids) == {"Status": "Success", "Success": 2, "Failures": []}
    with place.database.snapshot() as session:
        row = session.scalars(select(InstanceRow)).first()
    assert row
    Path(row.path).write_bytes(b"\0" * 200)  # the disk has lost it
    told = committed(place, ids)
    assert told["Status"] == "Failure"
    assert told["Success"] == 1
    assert told["Failures"] == [row.sop_instance_uid]
    assert [detail["committed"] for _, detail in events(place.database, "commitment_reported")] == [2, 1]


def committed(place: Place, ids: list[str]) -> dict[str, Any]:
    """What Orthanc was told after it asked for commitment."""
    request = place.orthanc.post("/modalities/NODE/storage-commitment", {"Resources": ids})
    reports = CommitmentReports(place.settings, place.database)

    def answered() -> dict[str, Any] | None:
        reports.send_due(place.peer)
        told: dict[str, Any] = place.orthanc.get(request["Path"])
        return None if told["Status"] == "Pending" else told

    told = wait_for(answered, "Orthanc has the report")
    return {
        "Status": told["Status"],
        "Success": len(told["Success"]),
        "Failures": [item["SOPInstanceUID"] for item in told["Failures"]],
    }
