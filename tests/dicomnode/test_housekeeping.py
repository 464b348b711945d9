"""The clockwork as a whole: it can start with everything switched on."""

from __future__ import annotations

from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler

from dicomnode.housekeeping import Housekeeping
from dicomnode.records.db import Database
from inference.registry import Registry
from tests.dicomnode.parts import settings_in

SECOND = """
[[peer]]
name = "SECOND"
ae_title = "SECOND"
host = "127.0.0.1"
port = 104
may_send = true
count_instances = true
retrieve_missing = "get"
storage_commitment = true

[retention]
inputs_days = 30
"""


def test_every_tick_has_a_name_of_its_own_so_that_the_clockwork_starts(
    tmp_path: Path, database: Database
) -> None:
    """Not covered: that each of them does its work."""
    settings = settings_in(tmp_path, SECOND)
    housekeeping = Housekeeping(settings, database, Registry(settings.models.folder, frozenset()))
    ticks = housekeeping.ticks()
    scheduler = BackgroundScheduler()
    for name, _, interval_s in ticks:
        scheduler.add_job(lambda: None, "interval", seconds=interval_s, id=name)
    scheduler.start(paused=True)
    scheduler.shutdown()
    signalled = [name for name, _, _ in housekeeping.signalled()]
    assert len(set(signalled)) == len(signalled)
    assert {"push SECOND", "ask SECOND", "count at SECOND"} <= set(signalled)
    assert {"fetch from SECOND", "purge", "sweep"} <= {name for name, _, _ in ticks}
