"""What a node takes while its disk fills up and empties again: by table, and on a real small disk.

Not covered: a disk that fills up between the look at it and the write beyond what ENOSPC tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage

from dicomnode.receive.listener import Listener
from dicomnode.receive.pressure import DiskGauge, Flow, next_flow
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.settings.node import ListenerSettings, Settings
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.parts import events, image, settings_in, stored, wait_until
from tests.faults.mounting import mount_small, unmount

MARKS = ListenerSettings(closed_free_gb=1, minimum_free_gb=2, recovered_free_gb=3)
MB = 1_000_000


@pytest.mark.parametrize(
    ("flow", "free_gb", "then"),
    [
        (Flow.OPEN, 2.0, Flow.OPEN),
        (Flow.OPEN, 1.99, Flow.REFUSING),
        (Flow.OPEN, 0.99, Flow.CLOSED),
        (Flow.REFUSING, 1.0, Flow.REFUSING),
        (Flow.REFUSING, 2.99, Flow.REFUSING),
        (Flow.REFUSING, 3.0, Flow.OPEN),
        (Flow.REFUSING, 0.99, Flow.CLOSED),
        (Flow.CLOSED, 1.5, Flow.CLOSED),
        (Flow.CLOSED, 2.99, Flow.CLOSED),
        (Flow.CLOSED, 3.0, Flow.OPEN),
        (Flow.OPEN, -1e-9, Flow.CLOSED),
    ],
)
def test_the_flow_follows_the_marks(flow: Flow, free_gb: float, then: Flow) -> None:
    assert next_flow(flow, int(free_gb * 1e9), MARKS) is then


def test_marks_that_are_not_given_follow_from_the_one_that_is() -> None:
    assert ListenerSettings(minimum_free_gb=10).free_gb == (5, 10, 12)


def test_marks_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValidationError, match="must rise"):
        ListenerSettings(minimum_free_gb=10, closed_free_gb=11)


def test_space_that_comes_and_goes_at_a_mark_changes_the_flow_once(
    spool: Spool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge = DiskGauge(spool, MARKS, database, Audit("receiver"))
    free = iter([1.9e9, 2.1e9] * 20 + [3.1e9, 2.1e9] * 20)
    monkeypatch.setattr(Spool, "free_bytes", lambda _: int(next(free)))
    flows = [gauge.read() for _ in range(80)]
    assert flows == [Flow.REFUSING] * 40 + [Flow.OPEN] * 40
    assert [event for event, _ in events(database)] == ["disk_low", "disk_recovered"]


def test_a_disk_that_cannot_be_asked_takes_nothing(
    spool: Spool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Spool) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Spool, "free_bytes", fails)
    assert DiskGauge(spool, MARKS, database, Audit("receiver")).read() is Flow.CLOSED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB at `data`."""
    folder = tmp_path / "data"
    if not mount_small(folder, 12):
        pytest.skip("this account may not mount a file system")
    yield folder
    unmount(folder)


def associate(node: Settings) -> Association:
    entity = AE(ae_title="PACS")
    entity.add_requested_context(CTImageStorage)
    return entity.associate("127.0.0.1", node.node.port, ae_title="LESIONNODE")


def test_a_real_disk_that_fills_up_refuses_then_closes_then_recovers(
    small_disk: Path, tmp_path: Path
) -> None:
    marks = ListenerSettings(closed_free_gb=0.002, minimum_free_gb=0.004, recovered_free_gb=0.006)
    node = settings_in(tmp_path).model_copy(update={"listener": marks})
    database, spool, ballast = migrated_database(node), Spool(node.spool), small_disk / "ballast"
    spool.prepare()

    def leave_free(megabytes: float) -> None:
        ballast.unlink(missing_ok=True)
        with suppress(OSError):  # the database may take the last bytes first
            ballast.write_bytes(bytes(max(0, int(spool.free_bytes() - megabytes * MB))))

    listener = Listener(node, database, spool)
    listener.start()
    try:
        association = associate(node)
        assert stored(association, image()).Status == 0x0000
        leave_free(3)
        assert stored(association, image()).Status == 0xA700
        leave_free(5)
        assert stored(association, image()).Status == 0xA700, "below the mark for recovery"
        second = associate(node)
        assert second.is_established, "refusing, but not closed"
        second.release()
        leave_free(1)
        assert associate(node).is_rejected
        leave_free(0)
        assert stored(association, image()).Status == 0xA700, "full to the last byte"
        leave_free(7)
        again = associate(node)
        assert stored(again, image()).Status == 0x0000
        again.release()
        association.release()
        wait_until(lambda: events(database, "disk_recovered"), 60)
    finally:
        listener.stop()
    assert [detail["flow"] for _, detail in events(database, "disk_low")] == ["refusing", "closed"]
    assert len(events(database, "instance_received")) == 2
    kept = [path for path in spool.folder.rglob("*") if path.is_file()]
    assert len(kept) == 2, "nothing half-written is left"
    database.engine.dispose()
