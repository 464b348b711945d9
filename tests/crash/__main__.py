"""`make crash`: all kill points, then kills at random times, written to docs/reliability.md."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from dicomnode.selftest.bundles import write_bundle
from tests.crash.explorer import SCOPES, Lane, Outcome, Plan
from tests.crash.lanes import Lanes
from tests.crash.page import crash_section, write_section
from tests.crash.points import PAUSED, PHASES, RANDOM_POINTS, START

KILLS_PER_RANDOM_STUDY = 6
WEIGHTS = {"random_receive": 4, "random_housekeep": 4}
"""These are back fastest; the others have weight 1."""
PAUSES = 2


def plans(kills: int, chance: random.Random) -> list[Plan]:
    """At least this many kills: all points in both scopes, pauses, and the rest at random times.

    A study passes one point of each phase, so it is killed four times on its way.
    """
    rounds = max(map(len, PHASES))
    found = [
        Plan(tuple(phase[number % len(phase)] for phase in PHASES), scope)
        for number in range(rounds)
        for scope in SCOPES
    ]
    found += [Plan((point,), scope) for point in START for scope in SCOPES]
    found += [Plan(random_points=(PAUSED,))] * PAUSES
    chance.shuffle(found)
    names = list(RANDOM_POINTS)
    weights = [WEIGHTS.get(name, 1) for name in names]
    while (done := sum(len(plan.points) + len(plan.random_points) for plan in found)) < kills:
        count = min(KILLS_PER_RANDOM_STUDY, kills - done)
        found.append(Plan(random_points=tuple(chance.choices(names, weights, k=count))))
    return found


def carry_out(plan: Plan, lane: Lane) -> Outcome:
    """One round; a condition that was waited for in vain is a complaint."""
    if PAUSED not in plan.random_points:
        return lane.round(plan)
    try:
        return lane.pause_a_worker()
    except AssertionError as error:
        return Outcome(plan, (PAUSED,), (str(error),), 0.0)


def main() -> int:
    """Explore, write the page, and fail when anything did not hold."""
    parser = argparse.ArgumentParser(prog="make crash")
    parser.add_argument("--kills", type=int, default=200, help="at least this many (default 200)")
    parser.add_argument("--lanes", type=int, default=3, help="nodes that are killed side by side")
    parser.add_argument("--minutes", type=float, default=600.0, help="no study begins after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where everything is kept to look at (default: temporary)"
    )
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="crash-"))
    print(f"everything is kept in {folder}")
    started = time.monotonic()
    write_bundle(folder / "models" / "threshold")

    def open_lane(name: str) -> Lane:
        return Lane(folder / name, folder / "models", random.Random(f"{arguments.seed}/{name}")).open()

    lanes = Lanes(open_lane, carry_out, _line)
    todo = plans(arguments.kills, random.Random(arguments.seed))
    outcomes = lanes.work_off(todo, arguments.lanes, arguments.minutes)
    command = (
        f"make crash ARGS='--kills {arguments.kills} --seed {arguments.seed} --lanes {arguments.lanes} "
        f"--minutes {arguments.minutes:g}'"
    )
    write_section("crash", crash_section(outcomes, command, time.monotonic() - started))
    return int(any(outcome.complaints for outcome in outcomes))


def _line(outcome: Outcome) -> str:
    names = ", ".join(outcome.killed) or "nothing"
    return f"{outcome.plan.scope} {names} ({outcome.duration_s} s)"


if __name__ == "__main__":
    sys.exit(main())
