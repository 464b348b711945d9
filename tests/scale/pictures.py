"""The pictures of docs/scale.md as SVG; the same numbers make the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tests.scale.load import HOUR_S, Sent
from tests.scale.places import Station
from tests.scale.queues import Outcome

COLOUR, OTHER = "#3b6ea5", "#c0504d"


def days_svg(studies: Sequence[Sent], outcome: Outcome) -> str:
    """Studies of each hour, and the 95th percentile of the wait for a worker of those that came in it."""
    with _style():
        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        hours = np.array([sent.at_s // HOUR_S for sent in studies], int)
        above.bar(np.arange(hours.max() + 1), np.bincount(hours), color=COLOUR)
        above.set_ylabel("studies an hour")
        jobs = [int(sent.at_s // HOUR_S) for sent in studies if sent.routed_images]
        waits: dict[int, list[float]] = {}
        for hour, wait in zip(jobs, outcome.waits_s[Station.WORKER], strict=True):
            waits.setdefault(hour, []).append(wait)
        below.plot(sorted(waits), [np.percentile(waits[hour], 95) for hour in sorted(waits)], color=OTHER)
        below.set_ylabel("wait for a worker,\n95th percentile (s)")
        below.set_xlabel("hours from Monday, 0:00")
        return _svg(figure)


def knee_svg(points: Sequence[tuple[int, float]]) -> str:
    """Wait against the number of workers."""
    with _style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        axes = figure.subplots()
        counts, waits = zip(*points, strict=True)
        axes.plot(counts, np.maximum(waits, 0.01), "o-", color=COLOUR)
        axes.set_yscale("log")
        axes.set_xlabel("workers")
        axes.set_ylabel("wait for a worker,\n95th percentile (s)")
        axes.grid(alpha=0.3)
        return _svg(figure)


def _style() -> AbstractContextManager[None]:
    return matplotlib.rc_context({"svg.hashsalt": "scale", "svg.fonttype": "none", "font.size": 9.0})


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
