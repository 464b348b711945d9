"""The pictures of docs/performance.md as SVG: growth curves and waterfalls."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.results import CaseResult, SpanResult, Spread

BAR_COLOUR = "#3b6ea5"


def axes_of(cases: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    """The cases that lie on an axis of growth, by axis and in order; an axis of one case is no curve."""
    found: dict[str, list[CaseResult]] = {}
    for case in cases:
        if case.at is not None:
            found.setdefault(case.at[0], []).append(case)
    return {
        axis: sorted(on_it, key=lambda case: case.at[1] if case.at else 0.0)
        for axis, on_it in found.items()
        if len(on_it) > 1
    }


def points(cases: Sequence[CaseResult], contender: str, figure: str) -> list[tuple[float, Spread]]:
    """Where a contender was measured along an axis."""
    found = []
    for case in cases:
        known = [c for c in case.contenders if c.name == contender]
        spread = Spread.of(known[0].values(figure)) if known else None
        if case.at and spread:
            found.append((case.at[1], spread))
    return found


def exponent(curve: Sequence[tuple[float, Spread]]) -> float | None:
    """The steepest growth between two points of the upper half: 1 is linear, 0 does not grow.

    None of fewer than two points beyond 0.
    """
    along = [(x, y.median) for x, y in curve if x > 0 and y.median > 0]
    upper = along[(len(along) - 1) // 2 :]
    if len(upper) < 2:
        return None
    (x1, y1), (x2, y2) = upper[0], upper[-1]
    return math.log(y2 / y1) / math.log(x2 / x1)


def curve_svg(axis: str, cases: Sequence[CaseResult]) -> str:
    """Seconds, and each further figure in a panel of its own, against the axis, both logarithmic."""
    contenders = dict.fromkeys(c.name for case in cases for c in case.contenders if not c.missing)
    figures = ["s", *dict.fromkeys(f for case in cases for c in case.contenders for f in c.figures)]
    with _style():
        drawing = Figure(figsize=(5.2 * len(figures), 3.4), layout="constrained")
        panels = drawing.subplots(1, len(figures), squeeze=False)
        for panel, figure in zip(panels[0], figures, strict=True):
            for name in contenders:
                _draw_curve(panel, points(cases, name, figure), name)
            panel.set(xlabel=axis, ylabel=figure, xscale="symlog", yscale="log")
            panel.legend(frameon=False)
        return _as_svg(drawing)


def _draw_curve(panel: Axes, curve: Sequence[tuple[float, Spread]], name: str) -> None:
    if curve:
        middles = [spread.median for _, spread in curve]
        below = [spread.median - spread.low for _, spread in curve]
        above = [spread.high - spread.median for _, spread in curve]
        panel.errorbar([x for x, _ in curve], middles, [below, above], marker="o", capsize=2, label=name)


def waterfall_svg(spans: Sequence[SpanResult]) -> str:
    """One bar a span, from its start to its end."""
    with _style():
        drawing = Figure(figsize=(8.0, 0.6 + 0.27 * len(spans)), layout="constrained")
        panel = drawing.subplots()
        for row, span in enumerate(spans):
            panel.barh(row, span.end_s - span.start_s, left=span.start_s, color=BAR_COLOUR, height=0.7)
            panel.text(span.end_s, row, f" {span.end_s - span.start_s:.3f} s", va="center", fontsize=7)
        panel.set_yticks(range(len(spans)), [span.name for span in spans])
        panel.invert_yaxis()
        panel.set(xlabel="s", xlim=(0, 1.12 * max(span.end_s for span in spans)))
        return _as_svg(drawing)


def _style() -> AbstractContextManager[None]:
    """Text as text, and the same bytes for the same figures."""
    return matplotlib.rc_context(
        {"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 9, "axes.grid": True,
         "grid.alpha": 0.3}
    )  # fmt: skip


def _as_svg(drawing: Figure) -> str:
    text = io.StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
