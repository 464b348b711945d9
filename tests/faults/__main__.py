"""`make faults`: the disk full, failing or read-only, the database locked or away, at every kind of write."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from dicomnode.selftest.bundles import write_bundle
from tests.crash.lanes import Lanes
from tests.crash.page import write_section
from tests.crash.points import point_called
from tests.faults.faults import QUICK, Locked
from tests.faults.rounds import Outcome, Trouble, TroubledLane
from tests.faults.table import faults_section

RECEIVE = ("before_placing", "written_not_synced", "placed_not_recorded", "recorded_not_committed",
           "synced_not_answered")  # fmt: skip
ASSEMBLE = ("before_closing", "before_routing", "job_made_not_committed")
WORK = ("leased", "encoded", "seg_stored", "all_stored", "publishing")
DELIVER = ("taken", "seg_sent_not_recorded", "seg_recorded", "settled_not_committed")
PHASES = (RECEIVE, ASSEMBLE, WORK, DELIVER)
OUTSIDE_TRANSACTIONS = (
    "written_not_synced",
    "before_placing",
    "before_routing",
    "all_stored",
    "seg_sent_not_recorded",
)
"""Only there can another program lock the database."""


def troubles() -> list[Trouble]:
    """Each fault at each point: one point of each phase in one study. The slow one first."""
    found = [Trouble(Locked(), tuple(map(point_called, OUTSIDE_TRANSACTIONS)))]
    for number in range(max(map(len, PHASES))):
        points = tuple(point_called(phase[number % len(phase)]) for phase in PHASES)
        found += [Trouble(fault(), points) for fault in QUICK]
    return found


def main() -> int:
    """Disturb, write the page, and fail when anything did not hold."""
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--lanes", type=int, default=3, help="nodes that are disturbed side by side")
    parser.add_argument("--minutes", type=float, default=60.0, help="no study begins after this time")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    started = time.monotonic()
    write_bundle(folder / "models" / "threshold")

    def open_lane(name: str) -> TroubledLane:
        return TroubledLane(folder / name, folder / "models", random.Random(name)).open()

    def carry_out(trouble: Trouble, lane: TroubledLane) -> Outcome:
        return lane.disturb(trouble)

    lanes = Lanes(open_lane, carry_out, _line)
    outcomes = lanes.work_off(troubles(), arguments.lanes, arguments.minutes)
    command = f"make faults ARGS='--lanes {arguments.lanes} --minutes {arguments.minutes:g}'"
    write_section("faults", faults_section(outcomes, command, time.monotonic() - started))
    return int(any(outcome.complaints for outcome in outcomes))


def _line(outcome: Outcome) -> str:
    met = ", ".join(outcome.noticed) or "no point"
    return f"{outcome.trouble.fault.name}, noticed at {met} ({outcome.duration_s} s)"


if __name__ == "__main__":
    sys.exit(main())
