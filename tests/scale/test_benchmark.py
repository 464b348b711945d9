"""Costs are taken from what the benchmark has kept, and what it lacks is said."""

from __future__ import annotations

import pytest

from tests.bench import page
from tests.bench.results import CaseResult, ContenderResult, Results, StageResult
from tests.scale.benchmark import costs_of, sources
from tests.scale.costs import Line
from tests.scale.test_queues import MEASURED

SPANS_S = {
    "recording": 0.0, "count asked for": 0.07, "routing": 0.03, "read": 0.7864320, "measure": 0.0,
    "encode": 9.9, "storing results": 0.01, "sending": 0.02, "commitment": 0.03,
}  # fmt: skip


def took(name: str, *seconds: float, **figures: list[float]) -> ContenderResult:
    return ContenderResult(name=name, seconds=list(seconds), figures=figures)


def stage(name: str, *cases: CaseResult) -> StageResult:
    return StageResult(
        name=name,
        title="",
        what="",
        command=f"measure {name}",
        date="",
        commit="",
        machine="",
        cases=list(cases),
    )


def case(name: str, *contenders: ContenderResult, **more: object) -> CaseResult:
    return CaseResult.model_validate({"name": name, "contenders": list(contenders), **more})


def results() -> Results:
    spans = {f"{name} (s)": [seconds] for name, seconds in SPANS_S.items()}
    stages = (
        stage(
            "ingest",
            case("9 x CT, 0.53 MB, 1 association(s)", took("dicomnode receive", 99.0), count=9),
            case("10 x CT, 0.53 MB, 4 association(s)", took("dicomnode receive", 0.1, 0.03, 0.05), count=10),
            case("10 x MR, 34 kB, 4 association(s)", took("dicomnode receive", 0.02), count=10),
        ),
        stage("records", case("events, 4 at once", took("SQLite", 0.1), took("PostgreSQL", 0.2), count=100)),
        stage("end_to_end", case("CT of 300 slices, 3 lesions", took("node", 1.0, **spans))),
        stage(
            "encoding",
            case("20 lesions in 1000 slices", took("node: all", 4.0), at=("slices", 1000.0)),
            case("20 lesions in 500 slices", took("node: all", 99.0), at=("slices", 500.0)),
            case("20 lesions in 100 slices", took("node: all", 1.0), at=("slices", 100.0)),
            case("9 lesions", took("node: all", 99.0), at=("lesions", 1.0)),
        ),
    )
    return Results(stages={one.name: one for one in stages})


def test_costs_are_medians_of_the_benchmark_for_each_image_and_voxel() -> None:
    costs = costs_of(results(), MEASURED)
    large_mb, small_mb = 0.524288, 0.032768
    assert costs.receive_s.of(large_mb) == pytest.approx(0.005)
    assert costs.receive_s.of(small_mb) == pytest.approx(0.002)
    assert costs.transaction_s == pytest.approx(0.002), "of the slower database"
    assert costs.completion_s == pytest.approx(0.1)
    assert costs.delivery_s == pytest.approx(0.06)
    assert costs.job_s["read"].of(78.64320) == pytest.approx(0.7864320)
    assert costs.job_s["segment"] == MEASURED.segment_s
    assert costs.job_s["encode"].of(65.536) == pytest.approx(4.0)
    assert costs.job_s["encode"].of(6.5536) == pytest.approx(1.0)
    assert costs.job_s["measure"] == Line(fixed=0.0, each=0.0)
    assert {one.name for one in sources(results())} == set(results().stages)


@pytest.mark.parametrize("name", ["ingest", "records", "end_to_end", "encoding"])
def test_a_stage_that_was_not_measured_is_named_with_its_remedy(name: str) -> None:
    stages = {key: value for key, value in results().stages.items() if key != name}
    with pytest.raises(LookupError, match=f"make bench ARGS='--only {name}'"):
        costs_of(Results(stages=stages), MEASURED)


def test_the_figures_that_are_kept_have_every_cost() -> None:
    costs = costs_of(page.read(), MEASURED)
    assert costs.receive_s.of(0.5) > costs.receive_s.of(0.03) > 0
    assert min(costs.transaction_s, costs.completion_s, costs.delivery_s) > 0
    assert all(line.of(50.0) > 0 for line in costs.job_s.values())
