"""The benchmark computes and writes right, and every stage runs at its smallest size.

Not covered: whether anything is fast. That is what `make bench` is for; no test judges a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench import __main__ as program
from tests.bench import page
from tests.bench.harness import (
    AtLeast,
    AtMost,
    Case,
    Contender,
    Reading,
    Run,
    Setting,
    Size,
    Span,
    Stage,
    command,
    measure,
    quantile,
    simply,
)
from tests.bench.needs import Need
from tests.bench.pictures import exponent
from tests.bench.results import CaseResult, Results, Spread


def reading(name: str, *readings: Reading, needs: tuple[Need, ...] = ()) -> Contender:
    """A contender that says these readings, one a round."""

    @contextmanager
    def opened() -> Iterator[Run]:
        left = iter(readings)
        yield lambda: next(left)

    return Contender(name, opened, needs, warm_up=False)


def seconds(name: str, *values: float) -> Contender:
    return reading(name, *(Reading(value) for value in values))


def test_a_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    found = measure(Case("c", (seconds("ours", 1.0, 2.0, 4.0), seconds("peer", 3.0, 2.0, 2.0))), 3)
    assert found.ratio("ours", "peer") == Spread(1.0, 0.5, 3.0)
    assert found.ratio("peer", "ours") == Spread(1.0, 1 / 3, 2.0)


def test_contenders_take_turns_and_every_other_round_runs_backwards() -> None:
    order: list[str] = []
    contenders = tuple(simply(name, lambda name=name: order.append(name)) for name in "ab")  # type: ignore[misc]
    measure(Case("c", contenders), 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"  # the first two warm up


def test_the_harness_takes_the_time_of_a_round_that_does_not_and_not_that_of_opening() -> None:
    clock: list[str] = []

    @contextmanager
    def opened() -> Iterator[Run]:
        clock.append("opened")
        yield lambda: clock.append("ran")
        clock.append("closed")

    found = measure(Case("c", (Contender("ours", opened, warm_up=False),)), 2)
    assert clock == ["opened", "ran", "ran", "closed"]
    assert all(value > 0 for value in found.contender("ours").seconds)


@pytest.mark.parametrize(
    ("goal", "met", "measured"),
    [
        (AtLeast("ours", 2.0, "peer"), True, "2.00 (2.00 to 2.00)"),
        (AtLeast("ours", 2.1, "peer"), False, "2.00 (2.00 to 2.00)"),
        (AtLeast("ours", 1.0, "absent"), None, "not measured"),
        (AtMost("ours", 1.5), True, "1.5"),
        (AtMost("ours", 1.5, share=0.95), False, "2"),
        (AtMost("ours", 7.0, "lag (ms)"), True, "6.5"),
        (AtMost("absent", 1.0), None, "not measured"),
    ],
)
def test_a_goal_is_met_missed_or_open(goal: AtLeast | AtMost, met: bool | None, measured: str) -> None:
    ours = reading("ours", Reading(1.0, {"lag (ms)": 6.0}), Reading(2.0, {"lag (ms)": 7.0}))
    absent = reading("absent", needs=(Need(False, "apt-get install absent"),))
    found = measure(Case("c", (ours, seconds("peer", 2.0, 4.0), absent), goals=(goal,)), 2)
    (verdict,) = found.verdicts
    assert (verdict.met, verdict.measured) == (met, measured)


def test_of_twenty_rounds_nineteen_are_95_percent() -> None:
    values = [float(number) for number in range(20, 0, -1)]
    assert (quantile(values, 0.95), quantile(values[1:], 0.95), quantile(values, 1.0)) == (19.0, 19.0, 20.0)


def test_a_peer_that_is_not_installed_is_named_with_its_remedy_and_never_opened() -> None:
    absent = reading("absent", needs=(Need(True, "nothing"), Need(False, "apt-get install absent")))
    found = measure(Case("c", (seconds("ours", 1.0), absent), reference="absent"), 1)
    lines = list(page.table(found))
    assert lines[0] == "| contender | s | ratio to absent |"
    assert lines[2:] == ["| ours | 1 (1 to 1) |  |", "| absent | not installed (apt-get install absent) |  |"]


def test_a_program_that_fails_is_an_error_with_what_it_printed() -> None:
    broken = command("broken", [sys.executable, "-c", "raise SystemExit('no such series')"])
    with pytest.raises(Exception, match="non-zero exit status") as raised:
        measure(Case("c", (broken,)), 1)
    assert "no such series" in "".join(raised.value.__notes__)


def test_the_exponent_of_growth_is_1_for_linear_and_2_for_quadratic() -> None:
    def curve(power: float) -> list[tuple[float, Spread]]:
        return [(x, Spread(x**power, 0.0, 0.0)) for x in (0.0, 1.0, 10.0, 100.0, 1000.0)]

    assert exponent(curve(1.0)) == pytest.approx(1.0)
    assert exponent(curve(2.0)) == pytest.approx(2.0)
    assert exponent(curve(1.0)[:2]) is None


def stage(name: str, cases: Iterable[Case]) -> Stage:
    return Stage(name, name.capitalize(), f"What {name} means.", lambda _: cases, rounds=1)


def growing() -> list[Case]:
    """Two places on an axis, and a waterfall."""
    spans = (Span("read", 0.0, 0.4), Span("send", 0.4, 1.0))
    return [
        Case("1 image", (reading("ours", Reading(1.0, {"peak (MiB)": 5.0}, spans)),), at=("images", 1)),
        Case("10 images", (seconds("ours", 10.0),), at=("images", 10), count=10, unit="images"),
    ]


def test_one_stage_is_written_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {
        "first": stage("first", growing()),
        "second": stage("second", [Case("c", (seconds("x", 2.0),))]),
    }
    monkeypatch.setattr(program, "all_stages", lambda: stages)
    assert program.main(["--only", "first", "--write"], tmp_path) == 0
    before = page.read(tmp_path).stages["first"]
    assert program.main(["--only", "second", "--write", "--quick", "--rounds", "1"], tmp_path) == 0
    assert page.read(tmp_path).stages == {"first": before, "second": page.read(tmp_path).stages["second"]}
    text = (tmp_path / "performance.md").read_text("utf-8")
    assert "| ours | s | 1.00 |" in text
    assert "| ours | 10 (10 to 10) | 1 |" in text
    assert "`python -m tests.bench --only second --write --quick --rounds 1`" in text
    drawn = {path.name for path in (tmp_path / "performance").iterdir()}
    assert drawn == {"first-images.svg", "first-1-image-spans.svg"}
    assert all(f"](performance/{name})" in text for name in drawn)


def test_a_stage_that_fails_is_told_of_and_its_earlier_figures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Setting) -> Iterator[Case]:
        raise ValueError("no data")
        yield

    stages = {
        "bad": Stage("bad", "Bad", "", broken),
        "good": stage("good", [Case("c", (seconds("x", 2.0),))]),
    }
    monkeypatch.setattr(program, "all_stages", lambda: stages)
    assert program.main(["--write"], tmp_path) == 1
    assert "failed: bad" in capsys.readouterr().err
    assert list(page.read(tmp_path).stages) == ["good"]


def test_results_are_the_same_after_a_round_trip() -> None:
    found = measure(growing()[0], 1)
    assert CaseResult.model_validate_json(found.model_dump_json(exclude_defaults=True)) == found
    assert Results.model_validate_json(Results().model_dump_json(exclude_defaults=True)) == Results()


@pytest.mark.slow
@pytest.mark.parametrize("name", program.all_stages())
def test_every_stage_runs_at_its_smallest_size(name: str) -> None:
    found = program.run_stage(program.all_stages()[name], Size.SMALLEST, 1, "test")
    assert found.cases
    assert all(
        contender.seconds or contender.missing for case in found.cases for contender in case.contenders
    )
