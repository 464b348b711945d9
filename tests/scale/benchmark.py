"""The costs that `make bench` has measured already, as docs/performance.json keeps them."""

from __future__ import annotations

from statistics import median

from dicomnode.records.audit import Stage
from tests.bench.results import CaseResult, ContenderResult, Results, StageResult
from tests.scale.costs import MEGABYTE, Costs, Line, Measured

STAGES = ("ingest", "records", "end_to_end", "encoding")
LARGE, SMALL = ("CT", 512 * 512 * 2), ("MR", 128 * 128 * 2)
"""Bytes of an image in the two kinds of cases of stage `ingest`."""
AT_ONCE = "4 association(s)"
RECEIVER = "dicomnode receive"
EVENTS = "events, 4 at once"
END_TO_END_MEGAVOXELS = 300 * 512 * 512 / 1e6
ENCODING_SIDE = 256
"""Of the cases of stage `encoding` that grow with slices."""
COMPLETION = ("recording", "count asked for", "routing")
DELIVERY = ("storing results", "sending", "commitment")


def costs_of(results: Results, measured: Measured) -> Costs:
    """Raises LookupError for what has not been measured, and says how it is."""
    ingest, records, end_to_end, encoding = (_stage(results, name) for name in STAGES)
    spans = _contender(_case(end_to_end, "CT of 300 slices"), "node")
    return Costs(
        measured=measured,
        receive_s=Line.through(*(_received(ingest, *kind) for kind in (SMALL, LARGE))),
        completion_s=sum(median(spans.values(f"{name} (s)")) for name in COMPLETION),
        transaction_s=_slower(_case(records, EVENTS)),
        job_s={
            Stage.READ: _in_proportion(spans, Stage.READ),
            Stage.SEGMENT: measured.segment_s,
            Stage.MEASURE: _in_proportion(spans, Stage.MEASURE),
            Stage.ENCODE: _encoded(encoding),
        },
        delivery_s=sum(median(spans.values(f"{name} (s)")) for name in DELIVERY),
    )


def sources(results: Results) -> list[StageResult]:
    """The stages that costs are taken from."""
    return [_stage(results, name) for name in STAGES]


def _stage(results: Results, name: str) -> StageResult:
    if name not in results.stages:
        raise LookupError(f"docs/performance.json has no stage {name!r}: `make bench ARGS='--only {name}'`")
    return results.stages[name]


def _case(stage: StageResult, *words: str) -> CaseResult:
    for case in stage.cases:
        if all(word in case.name for word in words):
            return case
    raise LookupError(f"stage {stage.name!r} has no case with {' and '.join(words)!r}")


def _contender(case: CaseResult, name: str) -> ContenderResult:
    found = case.contender(name)
    if not found.seconds:
        raise LookupError(f"{name!r} of {case.name!r} was not measured: {found.missing} is missing")
    return found


def _received(ingest: StageResult, modality: str, size_bytes: int) -> tuple[float, float]:
    """Megabytes of an image, and seconds for one of those that came over several associations at once."""
    case = _case(ingest, f" x {modality}, ", AT_ONCE)
    return size_bytes / MEGABYTE, _each(case, RECEIVER)


def _slower(case: CaseResult) -> float:
    """Of the databases that were measured."""
    return max(_each(case, found.name) for found in case.contenders if found.seconds)


def _each(case: CaseResult, name: str) -> float:
    if case.count is None:
        raise LookupError(f"{case.name!r} does not say how many it handled")
    return median(_contender(case, name).seconds) / case.count


def _in_proportion(spans: ContenderResult, stage: Stage) -> Line:
    return Line(fixed=0.0, each=median(spans.values(f"{stage} (s)")) / END_TO_END_MEGAVOXELS)


def _encoded(encoding: StageResult) -> Line:
    """All results of 20 lesions, through the shortest and the longest series."""
    took_s = {
        case.at[1]: median(_contender(case, "node: all").seconds)
        for case in encoding.cases
        if case.at and case.at[0] == "slices"
    }
    if len(took_s) < 2:
        raise LookupError(f"stage {encoding.name!r} has fewer than two cases that grow with slices")
    return Line.through(
        *((slices * ENCODING_SIDE**2 / 1e6, took_s[slices]) for slices in (min(took_s), max(took_s)))
    )
