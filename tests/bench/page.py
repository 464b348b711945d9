"""docs/performance.md, its pictures and docs/performance.json: written whole from what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.pictures import axes_of, curve_svg, exponent, points, waterfall_svg
from tests.bench.results import CaseResult, ContenderResult, Results, Spread, StageResult

DOCS = Path(__file__).parents[2] / "docs"
NAME = "performance"
INTRODUCTION = """\
# Performance

Each stage of a study's path against its peers, written by `make bench` and never by hand. All contenders of a
table did the same work on the same machine in one run, in turns. Figures are the median of the rounds, with
the lowest and the highest in brackets. Times are those of a shared machine and mean little by themselves; a
ratio is taken within each round, and is above 1 for the faster one. `make bench ARGS="--only NAME"` measures
one stage again and leaves the others. All rounds are in [performance.json](performance.json).
"""


def read(docs: Path = DOCS) -> Results:
    """What earlier runs found."""
    path = docs / f"{NAME}.json"
    return Results.model_validate_json(path.read_text("utf-8")) if path.exists() else Results()


def write(results: Results, docs: Path = DOCS) -> None:
    """The page, its pictures and the figures."""
    (docs / f"{NAME}.json").write_text(
        results.model_dump_json(indent=1, exclude_defaults=True) + "\n", "utf-8"
    )
    shutil.rmtree(docs / NAME, ignore_errors=True)
    for name, svg in pictures(results).items():
        (docs / NAME).mkdir(exist_ok=True)
        (docs / NAME / name).write_text(svg, "utf-8")
    sections = (section(results.stages[name]) for name in sorted(results.stages))
    (docs / f"{NAME}.md").write_text("\n".join((INTRODUCTION, *sections)), "utf-8")


def section(stage: StageResult) -> str:
    """One stage: what was measured, the table of each case, goals and pictures."""
    lines = [f"## {stage.title}", "", stage.what, ""]
    lines += [f"`{stage.command}`, {stage.date}, commit {stage.commit}; {stage.machine}.", ""]
    for case in stage.cases:
        lines += [f"### {stage.title}: {case.name}", "", *table(case), "", *goals(case)]
        if waterfall_of(case):
            lines += [f"![Where the time goes]({NAME}/{_waterfall_name(stage, case)})", ""]
    for axis, cases in axes_of(stage.cases).items():
        lines += [f"### {stage.title}: growth with {axis}", "", *growth(axis, cases), ""]
        lines += [f"![Growth with {axis}]({NAME}/{_curve_name(stage, axis)})", ""]
    return "\n".join(lines)


def table(case: CaseResult) -> Iterator[str]:
    """A row for each contender."""
    figures = list(dict.fromkeys(figure for c in case.contenders for figure in c.figures))
    head = ["contender", "s"]
    if case.count:
        head.append(f"{case.unit}/s")
    if case.reference:
        head.append(f"ratio to {case.reference}")
    yield _row([*head, *figures])
    yield "|" + "---|" * (len(head) + len(figures))
    for contender in case.contenders:
        yield _row([contender.name, *_cells(case, contender), *(_figure(contender, f) for f in figures)])


def _cells(case: CaseResult, contender: ContenderResult) -> Iterator[str]:
    spread = Spread.of(contender.seconds)
    yield f"{spread:.3g}" if spread else f"not installed ({contender.missing})"
    if case.count:
        yield f"{case.count / spread.median:.3g}" if spread else ""
    if case.reference:
        ratio = case.ratio(contender.name, case.reference)
        yield f"{ratio:.2f}" if ratio and contender.name != case.reference else ""


def _figure(contender: ContenderResult, name: str) -> str:
    spread = Spread.of(contender.values(name))
    return f"{spread:.4g}" if spread else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def goals(case: CaseResult) -> Iterator[str]:
    """A line for each goal, met or not, and the note."""
    words = {True: "met", False: "**not met**", None: "open"}
    for verdict in case.verdicts:
        yield f"- Goal: {verdict.goal}: {verdict.measured}, {words[verdict.met]}."
    if case.verdicts:
        yield ""
    if case.note:
        yield from (case.note, "")


def growth(axis: str, cases: Sequence[CaseResult]) -> Iterator[str]:
    """How steeply each figure of each contender grows."""
    yield f"| contender | figure | grows with {axis} to the power of |"
    yield "|---|---|---|"
    for name in dict.fromkeys(c.name for case in cases for c in case.contenders):
        for figure in ("s", *dict.fromkeys(f for case in cases for c in case.contenders for f in c.figures)):
            found = exponent(points(cases, name, figure))
            if found is not None:
                yield _row([name, figure, f"{found:.2f}"])


def waterfall_of(case: CaseResult) -> ContenderResult | None:
    """The contender that says where its time goes."""
    return next((contender for contender in case.contenders if contender.spans), None)


def pictures(results: Results) -> dict[str, str]:
    """All SVG files by name."""
    found = {}
    for stage in results.stages.values():
        for axis, cases in axes_of(stage.cases).items():
            found[_curve_name(stage, axis)] = curve_svg(axis, cases)
        for case in stage.cases:
            if contender := waterfall_of(case):
                found[_waterfall_name(stage, case)] = waterfall_svg(contender.spans)
    return found


def _curve_name(stage: StageResult, axis: str) -> str:
    return f"{stage.name}-{_slug(axis)}.svg"


def _waterfall_name(stage: StageResult, case: CaseResult) -> str:
    return f"{stage.name}-{_slug(case.name)}-spans.svg"


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
