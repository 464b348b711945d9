"""Works a list of plans off on several lanes at once, each with a node and an Orthanc of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """What a lane must be able to do here."""

    def close(self) -> None:
        """Stop everything."""


class Judged(Protocol):
    """What an outcome must say here."""

    @property
    def complaints(self) -> tuple[str, ...]:
        """What is wrong now."""


Todo = TypeVar("Todo")
Lane = TypeVar("Lane", bound=Closes)
Found = TypeVar("Found", bound=Judged)


class Lanes(Generic[Todo, Lane, Found]):
    """The lanes. What is lost stays lost: after a complaint the next plan gets a clean lane."""

    def __init__(
        self,
        open_lane: Callable[[str], Lane],
        carry_out: Callable[[Todo, Lane], Found],
        tell: Callable[[Found], str],
    ) -> None:
        self._open_lane, self._carry_out, self._tell = open_lane, carry_out, tell
        self._lock = threading.Lock()
        self._outcomes: list[Found] = []

    def work_off(self, plans: Sequence[Todo], lanes: int, minutes: float) -> list[Found]:
        """Returns the outcomes when every plan has one, or when time is up: no plan begins after it."""
        self._deadline, self._total = time.monotonic() + minutes * 60, len(plans)
        todo: queue.SimpleQueue[Todo] = queue.SimpleQueue()
        for plan in plans:
            todo.put(plan)
        threads = [threading.Thread(target=self._work, args=(todo, number)) for number in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._outcomes

    def _work(self, todo: queue.SimpleQueue[Todo], number: int) -> None:
        lane, opened = None, 0
        for plan in self._next(todo):
            if lane is None:
                opened += 1
                lane = self._open_lane(f"lane-{number}-{opened}")
            outcome = self._carry_out(plan, lane)
            self._note(outcome, number)
            if outcome.complaints:
                lane.close()
                lane = None
        if lane is not None:
            lane.close()

    def _next(self, todo: queue.SimpleQueue[Todo]) -> Iterator[Todo]:
        while time.monotonic() < self._deadline:
            try:
                yield todo.get_nowait()
            except queue.Empty:
                return

    def _note(self, outcome: Found, number: int) -> None:
        with self._lock:
            self._outcomes.append(outcome)
            done = f"{len(self._outcomes)}/{self._total}"
        print(f"{done} lane {number}: {self._tell(outcome)}", flush=True)
        for line in outcome.complaints:
            print(f"    {line}", flush=True)
