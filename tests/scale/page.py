"""docs/scale.md and its pictures, written whole from what was measured and simulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.results import StageResult
from tests.scale import load, places
from tests.scale.cost_tables import check_lines, cost_lines
from tests.scale.costs import MEGABYTE, Costs, Prediction
from tests.scale.load import HOUR_S, KINDS, Sent
from tests.scale.pictures import days_svg, knee_svg
from tests.scale.places import FILL, GPU_S, ONE_MACHINE, PLACES, Layout, Place, Station
from tests.scale.queues import Outcome, percentiles

DOCS = Path(__file__).parents[2] / "docs"
YEAR_DAYS = 365.0
KEPT_DAYS = 14
LARGE_BYTES = 1e11
"""Above, a whole copy of the database for each backup takes too long."""
SECONDS_OF_A_GPU = (1.0, 3.0, 10.0)

INTRODUCTION = """\
# Scale

What a node needs for one hospital, for twenty, and for a country; written by `make scale`, never by hand.
Costs are those of the [benchmark](performance.md), and of a real node where that has nothing
([scale.json](scale.json)). The load is assumed, the queues are simulated (SimPy, fixed seeds), and the
simulation is checked against the real node at the end of the page. Against the formulas of queueing theory it
is checked by `tests/scale/test_queues.py`.

**Not measured:** anything on a GPU, more than two cores, a real network, and hours of load. Figures that rest
on the assumed time of a GPU are marked.
"""

REMEDIES = {
    Station.LINE: "a faster line to the node, or a node at each hospital",
    Station.RECEIVER: "more receiver processes on one port, or several machines behind a TCP load "
    "balancer ([deploying](deploy.md#several-receivers))",
    Station.DATABASE: "PostgreSQL on a disk of its own, then several nodes: the audit trail of a node is one "
    "chain, and only one transaction at a time can add to it",
    Station.WORKER: "more workers: they share nothing but the database and the spool",
    Station.SENDER: "nothing: each destination has an association of its own",
}


@dataclass(frozen=True)
class Case:
    """One place, what it sends, and the node that is large enough for it."""

    place: Place
    studies: Sequence[Sent]
    demand: dict[Station, float]
    layout: Layout
    outcome: Outcome


def write_page(
    costs: Costs, sources: Sequence[StageResult], prediction: Prediction | None, seed: int, write: bool
) -> None:
    """Simulate all places; print the page, or write it with its pictures."""
    cases = [_case(place, costs, seed) for place in PLACES]
    text = "\n".join(_lines(cases, costs, sources, prediction))
    if not write:
        print(text)
        return
    (DOCS / "scale").mkdir(exist_ok=True)
    (DOCS / "scale" / "day.svg").write_text(days_svg(cases[-1].studies, cases[-1].outcome), "utf-8")
    (DOCS / "scale" / "workers.svg").write_text(knee_svg(_knee(cases[-1], costs)), "utf-8")
    (DOCS / "scale.md").write_text(text + "\n", "utf-8")


def _case(place: Place, costs: Costs, seed: int) -> Case:
    studies = load.studies(place.hospitals, place.studies_per_year, place.days, seed)
    demand = places.busiest_hour(studies, ONE_MACHINE, costs)
    layout = places.large_enough(place, ONE_MACHINE, demand)
    return Case(place, studies, demand, layout, places.run(studies, layout, costs))


def _knee(case: Case, costs: Costs) -> list[tuple[int, float]]:
    """Workers and the 95th percentile of the wait for one."""
    needed = case.layout.servers[Station.WORKER]
    found = []
    for count in sorted({max(1, round(needed * part)) for part in (0.6, 0.7, 0.8, 0.9, 1.0, 1.2)}):
        outcome = places.run(case.studies, places.with_workers(case.layout, count), costs)
        found.append((count, float(percentiles(outcome.waits_s[Station.WORKER])[1])))
    return found


def _lines(
    cases: Sequence[Case], costs: Costs, sources: Sequence[StageResult], prediction: Prediction | None
) -> Iterator[str]:
    yield INTRODUCTION
    yield from cost_lines(costs, sources)
    yield from _assumed()
    yield from _needed(cases)
    yield from _ages(cases)
    yield from _amounts(cases, costs)
    yield from _breaks(cases, costs)
    yield from check_lines(prediction)


def _assumed() -> Iterator[str]:
    yield from ("## What was assumed", "")
    yield "| modality | share | images, median | image | with a model | images of that series |"
    yield "|---|---|---|---|---|---|"
    for kind in KINDS:
        yield (
            f"| {kind.modality} | {kind.share:.0%} | {kind.images:.0f} | {kind.image_bytes / 1e6:.2g} MB "
            f"| {kind.routed:.0%} | {kind.routed_images:.0%} |"
        )
    day = max(load.DAY_CURVE) / sum(load.DAY_CURVE)
    yield from (
        "",
        f"Studies come at random (Poisson); the busiest hour of a day has {day:.0%} of them, a Sunday "
        f"{load.WEEK_CURVE[6] * 7 / sum(load.WEEK_CURVE):.0%} of a mean day. Once a week the PACS of each "
        f"hospital stands still for {load.OUTAGE_S / 60:.0f} minutes, and then sends all at once what it "
        f"held back. Sizes are log-normal. A network takes {GPU_S:g} s on a GPU (**assumed**). A line has 1 "
        f"Gbit/s. Inputs are kept for {KEPT_DAYS} days, events for ever.",
        "",
    )


def _needed(cases: Sequence[Case]) -> Iterator[str]:
    yield from ("## What is needed", "")
    yield (
        "How much the busiest hour asks of each station, in servers that would be busy all the time; in "
        f"brackets, how many are needed so that none is more than {FILL:.0%} busy. Above 1, one machine as "
        "installed is not enough."
    )
    yield from ("", f"| | {' | '.join(case.place.name for case in cases)} |", "|---|" + "---|" * len(cases))
    yield f"| studies a year | {' | '.join(f'{case.place.studies_per_year:,.0f}' for case in cases)} |"
    for station in Station:
        cells = (f"{case.demand[station]:.2f} ({case.layout.servers[station]})" for case in cases)
        name = "worker with a GPU (assumed)" if station is Station.WORKER else station.value
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _ages(cases: Sequence[Case]) -> Iterator[str]:
    yield from ("## How old queues get", "")
    yield "Waits in the simulation of the layout in brackets, in seconds: 50th / 95th / 99th percentile."
    yield from ("", f"| | {' | '.join(case.place.name for case in cases)} |", "|---|" + "---|" * len(cases))
    for station in Station:
        cells = (_percentiles(case.outcome.waits_s[station]) for case in cases)
        yield f"| {station.value} | {' | '.join(cells)} |"
    totals = (_percentiles(case.outcome.totals_s) for case in cases)
    yield f"| first image to the last result | {' | '.join(totals)} |"
    days = cases[-1].place.days
    yield from (
        "",
        f"![Arrivals and waits in {cases[-1].place.name}, {days} days](scale/day.svg)",
        "",
        "The last line is that of all studies; one that goes to no model ends when it is stored. The long "
        "waits are those after an outage of a PACS, when all that it held back comes at once.",
        "",
        f"![Waits against the number of workers in {cases[-1].place.name}](scale/workers.svg)",
        "",
    )


def _amounts(cases: Sequence[Case], costs: Costs) -> Iterator[str]:
    yield from ("## What piles up", "")
    yield from (f"| | {' | '.join(case.place.name for case in cases)} |", "|---|" + "---|" * len(cases))
    rows = [_amounts_of(case, costs) for case in cases]
    for name in rows[0]:
        yield f"| {name} | {' | '.join(row[name] for row in rows)} |"
    yield ""


def _amounts_of(case: Case, costs: Costs) -> dict[str, str]:
    count = len(case.studies)
    of_a_year = case.place.studies_per_year / count
    images = sum(sent.images for sent in case.studies) * of_a_year
    size = sum(sent.size_bytes for sent in case.studies) * of_a_year
    jobs = [sent for sent in case.studies if sent.routed_images]
    results = sum(costs.measured.result_bytes.of(sent.routed_images) for sent in jobs) * of_a_year
    rows = case.place.studies_per_year * costs.measured.rows.fixed + images * costs.measured.rows.each
    stored = _database_bytes(case, costs)
    job_rate = _busiest(jobs) / HOUR_S
    cpu_s = [ONE_MACHINE.job_s(sent, costs) - GPU_S for sent in jobs]
    gpus = " / ".join(f"{max(1, -(-job_rate * seconds // FILL)):.0f}" for seconds in SECONDS_OF_A_GPU)
    return {
        "images a year": f"{images:.2g}",
        "received, mean over the year": f"{size * 8 / 1e6 / YEAR_DAYS / load.DAY_S:,.0f} Mbit/s",
        "received, busiest hour": f"{case.demand[Station.LINE] * 1000:,.0f} Mbit/s",
        "written to the spool, busiest hour": f"{_written_mb(case):,.0f} MB/s",
        f"spool, {KEPT_DAYS} days": f"{size / YEAR_DAYS * KEPT_DAYS / 1e12:,.1f} TB",
        "results a year": f"{results / 1e12:,.2f} TB",
        "rows of the database a year": f"{rows:.2g}",
        "database a year": f"{stored / 1e9:,.0f} GB",
        "jobs in the busiest hour": f"{job_rate * HOUR_S:,.0f}",
        f"GPUs for the networks alone, at {' / '.join(f'{s:g}' for s in SECONDS_OF_A_GPU)} s (assumed)": gpus,
        "CPU of a job beside the network, mean": f"{sum(cpu_s) / len(cpu_s):.1f} s",
        "CPU cores for that in the busiest hour": f"{job_rate * sum(cpu_s) / len(cpu_s):.1f}",
    }


def _written_mb(case: Case) -> float:
    """A second: each image goes into a journal, and then into its own file."""
    return 2 * case.demand[Station.LINE] * case.layout.line_gbit * 1e9 / 8 / MEGABYTE


def _busiest(studies: Sequence[Sent]) -> int:
    hours: dict[int, int] = {}
    for sent in studies:
        hours[int(sent.at_s // HOUR_S)] = hours.get(int(sent.at_s // HOUR_S), 0) + 1
    return max(hours.values(), default=0)


def _breaks(cases: Sequence[Case], costs: Costs) -> Iterator[str]:
    yield from ("## What breaks first", "")
    for case in cases:
        order = sorted(
            (station for station in Station if station is not Station.SENDER),
            key=case.demand.__getitem__,
            reverse=True,
        )
        beyond = [station for station in order if case.demand[station] > FILL]
        yield f"### {case.place.name[0].upper()}{case.place.name[1:]}"
        yield ""
        if not beyond:
            first = order[0]
            yield (
                f"Nothing: one machine with one GPU is enough. Busiest is the {first.value} with "
                f"{case.demand[first]:.0%} in the busiest hour."
            )
        days = LARGE_BYTES / _database_bytes(case, costs) * YEAR_DAYS
        yield (
            f"Its database passes {LARGE_BYTES / 1e9:.0f} GB after {days:,.0f} days; from there on, "
            "PostgreSQL, whose backups can grow with what changed instead of being a whole copy each time."
        )
        yield ""
        for number, station in enumerate(beyond, start=1):
            yield f"{number}. The {station.value} ({case.demand[station]:.1f} of 1): {REMEDIES[station]}."
        yield ""


def _database_bytes(case: Case, costs: Costs) -> float:
    """Of one year."""
    images = sum(sent.images for sent in case.studies) / len(case.studies)
    return case.place.studies_per_year * costs.measured.database_bytes.of(images)


def _percentiles(values: Sequence[float]) -> str:
    return " / ".join(f"{value:,.1f}" for value in percentiles(values))
