"""Contenders against each other in interleaved rounds; see `tests/bench/stages` for what is measured.

A module in `tests/bench/stages` has one `STAGE`. Its `cases` is a generator: it makes its data, yields a
`Case`, which is then measured, and clears away. A case has contenders that do the same work; what each does
before the clock starts (a server, a loaded model) stands in its `open`:

    @contextmanager
    def receiver() -> Iterator[Run]:
        with started_receiver() as port:
            yield lambda: send(files, port)          # timed by the harness, or
            # yield lambda: Reading(seconds, {"peak (MiB)": 12.0})   # timed by itself

    def cases(setting: Setting) -> Iterator[Case]:
        peer = command("peer", ["peer", "files"], [program("peer", "peer-package")])
        goals = (AtLeast("ours", 1.0, "peer"),)
        yield Case("500 CT", (Contender("ours", receiver), peer), "peer", goals, count=500, unit="files")

    STAGE = Stage("receiving", "Receiving", "Images over one association ...", cases)

Absolute times of a shared machine mean little; ratios within a round do. The ratio of two contenders is taken
round by round, and is above 1 for the faster one. Cases that lie `at` a place of one axis become a curve.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from tests.bench.needs import Need
from tests.bench.results import CaseResult, ContenderResult, SpanResult, VerdictResult
from tests.real_parts import find_program

T = TypeVar("T")


class Size(IntEnum):
    """How much a stage does: enough for a test, for a look while one works, for the page."""

    SMALLEST = 0
    QUICK = 1
    FULL = 2


@dataclass(frozen=True)
class Setting:
    """What a stage is asked to do, and a folder of its own that is removed afterwards."""

    size: Size
    folder: Path
    device: str = "auto"
    """Where networks run, as in `worker.devices`."""

    def choose(self, smallest: T, quick: T, full: T) -> T:
        """The one of three amounts that fits the size."""
        return (smallest, quick, full)[self.size]


@dataclass(frozen=True)
class Span:
    """A part of a round, for a waterfall: from `start_s` to `end_s` after the round began."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Reading:
    """What one round gave, where the contender measures itself: seconds, and any further figures by name."""

    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()


Run = Callable[[], Reading | None]
"""One round. Without a `Reading` the harness takes the time of the call."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work. `open` prepares outside of the clock; `needs` are what may not be installed."""

    name: str
    open: Callable[[], AbstractContextManager[Run]]
    needs: tuple[Need, ...] = ()
    warm_up: bool = True
    """Whether a first round is thrown away."""


@dataclass(frozen=True)
class AtLeast:
    """A goal: `contender` is at least `ratio` times as fast as `reference`."""

    contender: str
    ratio: float
    reference: str

    def judge(self, found: CaseResult) -> VerdictResult:
        spread = found.ratio(self.contender, self.reference)
        text = f"{self.contender} at least {self.ratio:g} times as fast as {self.reference}"
        if spread is None:
            return VerdictResult(goal=text, measured="not measured", met=None)
        return VerdictResult(goal=text, measured=f"{spread:.2f}", met=spread.median >= self.ratio)


@dataclass(frozen=True)
class AtMost:
    """A goal: the seconds, or another figure, of `contender` are at most `limit` in a share of the rounds."""

    contender: str
    limit: float
    figure: str = "s"
    share: float = 0.5

    def judge(self, found: CaseResult) -> VerdictResult:
        values = found.contender(self.contender).values(self.figure)
        share = "median" if self.share == 0.5 else f"{100 * self.share:g} % of rounds"
        text = f"{self.contender}: {self.figure} at most {self.limit:g} ({share})"
        if not values:
            return VerdictResult(goal=text, measured="not measured", met=None)
        reached = quantile(values, self.share)
        return VerdictResult(goal=text, measured=f"{reached:.3g}", met=reached <= self.limit)


@dataclass(frozen=True)
class Case:
    """The same work for every contender."""

    name: str
    contenders: tuple[Contender, ...]
    reference: str | None = None
    """The contender that ratios are given against."""
    goals: tuple[AtLeast | AtMost, ...] = ()
    count: float | None = None
    unit: str = ""
    """How many of what a round handles; the table then shows a rate."""
    at: tuple[str, float] | None = None
    """Where the case lies on an axis of growth, as ("lesions", 200): cases of one axis make a curve."""
    note: str = ""
    """A sentence below the table."""


@dataclass(frozen=True)
class Stage:
    """One part of a study's path; `name` is what `--only` takes."""

    name: str
    title: str
    what: str
    """One paragraph for the page: what is measured, and what each contender does."""
    cases: Callable[[Setting], Iterable[Case]]
    rounds: int = 7


def simply(name: str, work: Callable[[], object], needs: Sequence[Need] = ()) -> Contender:
    """A contender that is a function."""

    def run() -> None:
        work()

    return Contender(name, _opened(run), tuple(needs))


def command(
    name: str,
    arguments: Sequence[str | Path],
    needs: Sequence[Need] = (),
    environment: Mapping[str, str] | None = None,
) -> Contender:
    """A contender that is a program, timed with its start; one that fails raises with what it printed."""

    def run() -> None:
        run_program(arguments, environment)

    return Contender(name, _opened(run), tuple(needs), warm_up=False)


def run_program(arguments: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
    """Run to the end; raises CalledProcessError, with the output as a note."""
    name, *others = map(str, arguments)
    try:
        subprocess.run(
            [find_program(name) or name, *others], check=True, capture_output=True, env=environment
        )
    except subprocess.CalledProcessError as error:
        error.add_note((error.stdout + error.stderr)[-2000:].decode("utf-8", "replace"))
        raise


def _opened(run: Run) -> Callable[[], AbstractContextManager[Run]]:
    @contextmanager
    def opened() -> Iterator[Run]:
        yield run

    return opened


def measure(case: Case, rounds: int) -> CaseResult:
    """All contenders that are installed, in turns; every other round backwards, so that drift cancels."""
    readings: dict[str, list[Reading]] = {c.name: [] for c in case.contenders}
    missing = {c.name: [need.remedy for need in c.needs if not need.present] for c in case.contenders}
    with ExitStack() as opened:
        running = [(c, opened.enter_context(c.open())) for c in case.contenders if not missing[c.name]]
        for contender, run in running:
            if contender.warm_up:
                run()
        for number in range(rounds):
            for contender, run in running if number % 2 == 0 else reversed(running):
                readings[contender.name].append(_reading(run))
    found = CaseResult(
        name=case.name,
        contenders=[_summary(name, readings[name], missing[name]) for name in readings],
        reference=case.reference,
        count=case.count,
        unit=case.unit,
        at=case.at,
        note=case.note,
    )
    return found.model_copy(update={"verdicts": [goal.judge(found) for goal in case.goals]})


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def _reading(run: Run) -> Reading:
    seconds, reading = timed(run)
    return reading or Reading(seconds)


def _summary(name: str, readings: Sequence[Reading], missing: Sequence[str]) -> ContenderResult:
    names = dict.fromkeys(figure for reading in readings for figure in reading.figures)
    middle = sorted(readings, key=lambda reading: reading.seconds)[len(readings) // 2] if readings else None
    return ContenderResult(
        name=name,
        missing=", ".join(missing),
        seconds=[_rounded(reading.seconds) for reading in readings],
        figures={n: [_rounded(r.figures[n]) for r in readings if n in r.figures] for n in names},
        spans=[
            SpanResult(name=span.name, start_s=_rounded(span.start_s), end_s=_rounded(span.end_s))
            for span in (middle.spans if middle else ())
        ],
    )


def _rounded(value: float) -> float:
    """Six digits: no clock here has more."""
    return float(f"{value:.6g}")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed: the median as usual, else the next one upwards."""
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[math.ceil(share * len(values)) - 1]
