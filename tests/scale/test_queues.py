"""The simulation against the formulas of queueing theory, and against itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.scale import load, places
from tests.scale.costs import Costs, Line, Measured
from tests.scale.places import ONE_MACHINE, PLACES, Station
from tests.scale.queues import Outcome, Step, Visit, simulate

VISITS = 20_000
NEAR = 0.15
"""Means of so many visits stray by a few percent."""

MEASURED = Measured(
    machine="", date="", commit="",
    record_s=0.002, job_transactions=20, segment_s=Line(fixed=1.0, each=1.0),
    result_bytes=Line(fixed=1e4, each=1e3), rows=Line(fixed=30, each=2),
    database_bytes=Line(fixed=2e4, each=1e3),
)  # fmt: skip
COSTS = Costs(
    measured=MEASURED, receive_s=Line(fixed=0.003, each=0.001), completion_s=0.1, transaction_s=0.001,
    job_s={"read": Line(fixed=0.1, each=0.01), "segment": MEASURED.segment_s}, delivery_s=0.5,
)  # fmt: skip


def visits(rate: float, services_s: Iterator[float], seed: int) -> list[Visit]:
    gaps = np.random.default_rng(seed).exponential(1.0 / rate, VISITS).cumsum()
    return [Visit(float(at), (Step("one", next(services_s)),)) for at in gaps]


def exponential(mean_s: float, seed: int) -> Iterator[float]:
    chance = np.random.default_rng(seed)
    while True:
        yield float(chance.exponential(mean_s))


def always(service_s: float) -> Iterator[float]:
    while True:
        yield service_s


def erlang_c(servers: int, load: float) -> float:
    """The chance that a visit must wait (M/M/c)."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.7), (2, 1.4), (8, 6.0)])
def test_random_services_wait_as_erlang_says(servers: int, rate: float) -> None:
    outcome = simulate({"one": servers}, visits(rate, exponential(1.0, 2), seed=1))
    expected_s = erlang_c(servers, rate) / (servers - rate)
    assert np.mean(outcome.waits_s["one"]) == pytest.approx(expected_s, rel=NEAR)
    assert outcome.utilisation("one") == pytest.approx(rate / servers, rel=0.05)


@pytest.mark.parametrize("utilisation", [0.5, 0.8])
def test_equal_services_wait_as_pollaczek_and_khinchine_say(utilisation: float) -> None:
    outcome = simulate({"one": 1}, visits(utilisation, always(1.0), seed=3))
    expected_s = utilisation / (2 * (1 - utilisation))
    assert np.mean(outcome.waits_s["one"]) == pytest.approx(expected_s, rel=NEAR)


def test_the_formulas_would_notice_a_lost_server() -> None:
    outcome = simulate({"one": 2}, visits(1.4, exponential(1.0, 2), seed=1))
    expected_s = erlang_c(3, 1.4) / (3 - 1.4)
    assert np.mean(outcome.waits_s["one"]) != pytest.approx(expected_s, rel=NEAR)


Gaps = st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 5.0)), min_size=1, max_size=30)


def run(gaps: list[tuple[float, float]], servers: int) -> Outcome:
    times = np.cumsum([gap for gap, _ in gaps])
    return simulate(
        {"one": servers}, [Visit(float(t), (Step("one", s),)) for t, (_, s) in zip(times, gaps, strict=True)]
    )


@given(Gaps, st.integers(1, 4))
@examples(deadline=None, max_examples=60)
def test_one_more_server_makes_nobody_wait_longer(gaps: list[tuple[float, float]], servers: int) -> None:
    few, more = run(gaps, servers), run(gaps, servers + 1)
    pairs = zip(few.waits_s["one"], more.waits_s["one"], strict=True)
    assert all(longer >= shorter - 1e-9 for longer, shorter in pairs)


@given(Gaps)
@examples(deadline=None, max_examples=60)
def test_one_server_waits_as_lindley_says(gaps: list[tuple[float, float]]) -> None:
    wait, expected = 0.0, []
    for number, (_, service) in enumerate(gaps):
        expected.append(wait)
        following = gaps[number + 1][0] if number + 1 < len(gaps) else 0.0
        wait = max(0.0, wait + service - following)
    assert run(gaps, 1).waits_s["one"] == pytest.approx(expected, abs=1e-6)


def test_the_same_seed_makes_the_same_days_and_another_one_others() -> None:
    first, again, other = (load.studies(2, 20_000.0, 3, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_the_load_is_what_was_asked_for_and_follows_the_day() -> None:
    sent = load.studies(1, 365_000.0, 7, seed=1)
    assert len(sent) == pytest.approx(7000, rel=0.05)
    assert [one.at_s for one in sent] == sorted(one.at_s for one in sent)
    by_hour = np.bincount([int(one.at_s % load.DAY_S // load.HOUR_S) for one in sent], minlength=24)
    assert by_hour[9:12].sum() > 8 * by_hour[0:3].sum()


def test_a_layout_for_the_busiest_hour_keeps_up_and_half_of_it_does_not() -> None:
    place = PLACES[1]
    sent = load.studies(place.hospitals, place.studies_per_year, 2, seed=1)
    on_cpus = replace(ONE_MACHINE, gpu=False)
    layout = places.large_enough(place, on_cpus, places.busiest_hour(sent, on_cpus, COSTS))
    enough = places.run(sent, layout, COSTS)
    half = places.run(sent, places.with_workers(layout, layout.servers[Station.WORKER] // 2), COSTS)
    assert np.percentile(enough.waits_s[Station.WORKER], 95) < 30
    assert np.percentile(half.waits_s[Station.WORKER], 95) > 300
