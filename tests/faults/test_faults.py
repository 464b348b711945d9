"""A full disk and a failing one, met by receiver, housekeeping and worker of a node; `make faults` does more.

Not covered here: most points and faults of the table, and a database that stays locked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.selftest.bundles import write_bundle
from tests.crash.points import point_called
from tests.faults.__main__ import troubles
from tests.faults.faults import CallFails, DiskFull
from tests.faults.mounting import mount_small, unmount
from tests.faults.rounds import Outcome, Trouble, TroubledLane
from tests.faults.table import ROLES, faults_section

LATER = ("job_made_not_committed", "seg_stored", "taken")
NEED_ROOM = {"before_placing", "seg_stored"}
"""What makes a file meets a full disk; what only writes rows may find room in the database's files."""


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TroubledLane]:
    folder = tmp_path_factory.mktemp("faults")
    write_bundle(folder / "models" / "threshold")
    opened = TroubledLane(folder / "lane", folder / "models", random.Random(1))
    try:
        opened.open()
    except PermissionError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.real_parts
@pytest.mark.timeout(900)
def test_a_node_whose_disk_is_full_or_fails_tells_its_senders_and_loses_nothing(lane: TroubledLane) -> None:
    full, failing = DiskFull(1), CallFails("sync_fails", "fsync,fdatasync")
    for fault, first in ((full, "before_placing"), (failing, "written_not_synced")):
        points = tuple(map(point_called, (first, *LATER)))
        outcome = lane.disturb(Trouble(fault, points))
        assert outcome.complaints == ()
        met = NEED_ROOM if fault is full else {point.name for point in points}
        assert met <= set(outcome.noticed) <= {point.name for point in points}
        if fault is failing:  # the journal has room of its own
            assert set(outcome.answers) > {"Success"}, "the sender was told"


def test_every_fault_meets_every_process_that_writes() -> None:
    met = {(trouble.fault.name, point.role) for trouble in troubles() for point in trouble.points}
    faults = {trouble.fault.name for trouble in troubles()}
    assert met == {(fault, role) for fault in faults for role in ("receive", "record", "housekeep", "work")}


def test_the_page_tells_of_every_fault_who_noticed_it() -> None:
    outcomes = [
        Outcome(trouble, tuple(p.name for p in trouble.points), {}, (), 1.0) for trouble in troubles()
    ]
    section = faults_section(outcomes, "make faults", 60.0)
    for trouble in troubles():
        assert f"`{trouble.fault.name}`" in section
    for role in ROLES.values():
        assert f"{role} at " in section


def test_a_full_disk_has_exactly_the_room_that_is_left(tmp_path: Path) -> None:
    if not mount_small(tmp_path / "disk", 4):
        pytest.skip("only root may mount")
    fault = DiskFull(2)
    fault.begin(tmp_path / "disk", 0)
    with (tmp_path / "disk" / "file").open("wb", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            for _ in range(4):
                file.write(bytes(4096))
        assert file.tell() == 2 * 4096
    fault.end()
    (tmp_path / "disk" / "file").write_bytes(bytes(100_000))
    unmount(tmp_path / "disk")
