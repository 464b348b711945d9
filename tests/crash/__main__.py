"""`make crash`: all kill points, then kills at random times, written to docs/reliability.md."""

from __future__ import annotations

import argparse
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dicomnode.selftest.bundles import write_bundle
from tests.crash.explorer import SCOPES, Lane, Outcome, Plan
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


class Explorer:
    """Works the plans off on several lanes at once, each with a node and an Orthanc of its own."""

    def __init__(self, folder: Path, seed: int, todo: list[Plan], minutes: float) -> None:
        self._deadline = time.monotonic() + minutes * 60
        self._folder = folder
        self._seed = seed
        self._total = len(todo)
        self._todo: queue.SimpleQueue[Plan] = queue.SimpleQueue()
        for plan in todo:
            self._todo.put(plan)
        self._lock = threading.Lock()
        self.outcomes: list[Outcome] = []
        write_bundle(folder / "models" / "threshold")

    def run(self, lanes: int) -> None:
        """Returns when every plan has an outcome, or when time is up."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> None:
        lane, opened = None, 0
        for plan in self._next_plans():
            if lane is None:
                opened += 1
                chance = random.Random(f"{self._seed}/{number}/{opened}")
                lane = Lane(self._folder / f"lane-{number}-{opened}", self._folder / "models", chance).open()
            outcome = carry_out(plan, lane)
            self._note(outcome, lane)
            if outcome.complaints:  # what is lost stays lost: the next study deserves a clean node
                lane.close()
                lane = None
        if lane is not None:
            lane.close()

    def _next_plans(self) -> Iterator[Plan]:
        while time.monotonic() < self._deadline:
            try:
                yield self._todo.get_nowait()
            except queue.Empty:
                return

    def _note(self, outcome: Outcome, lane: Lane) -> None:
        with self._lock:
            self.outcomes.append(outcome)
            done = f"{len(self.outcomes)}/{self._total}"
        names = ", ".join(outcome.killed) or "nothing"
        print(f"{done} {lane.folder.name} {outcome.plan.scope} {names} ({outcome.duration_s} s)", flush=True)
        for line in outcome.complaints:
            print(f"    {line}", flush=True)


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
    todo = plans(arguments.kills, random.Random(arguments.seed))
    explorer = Explorer(folder, arguments.seed, todo, arguments.minutes)
    explorer.run(arguments.lanes)
    command = f"make crash ARGS='--kills {arguments.kills} --seed {arguments.seed} --lanes {arguments.lanes}'"
    write_section("crash", crash_section(explorer.outcomes, command, time.monotonic() - started))
    return int(any(outcome.complaints for outcome in explorer.outcomes))


if __name__ == "__main__":
    sys.exit(main())
