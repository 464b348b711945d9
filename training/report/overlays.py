"""The best, the median and the worst case of every network, with the outlines of truth and finding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from inference.bundle import Window
from training.cases import Case, DataSet, LoadedCase
from training.compare import read_found
from training.report.entries import Entry
from training.report.figures import FONT, save
from training.train import used_cases

TRUTH, FOUND = "#56B4E9", "#E69F00"
LEAST_VIEW = 0.4
"""Share of the image's longer side that is shown at least."""
AROUND = 1.6
"""The view against what it is about."""

Truth = npt.NDArray[np.uint8]
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Pick:
    """One case to be shown: `number` is its place in the evaluation."""

    rank: str
    number: int
    dice: float


def overlays(entries: list[Entry], path: Path) -> Path | None:
    """One row per network; None when no case has a truth. Reads these cases from the data set."""
    picks = [picked(entry) for entry in entries]
    if not all(picks):
        return None
    data, cases = used_cases(entries[0].job.experiment)
    by_name = {case.name: case for case in cases}
    columns = max(map(len, picks))
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.5 * len(entries) + 0.6), layout="constrained")
    axes = figure.subplots(len(entries), columns, squeeze=False)
    for row, entry in enumerate(entries):
        for column, pick in enumerate(picks[row]):
            _show(axes[row][column], entry, pick, data, by_name)
        axes[row][0].set_ylabel(entry.title, fontsize=FONT)
    handles = [
        Line2D([], [], color=TRUTH, linewidth=3, label="truth"),
        Line2D([], [], color=FOUND, linewidth=3, linestyle="--", label="found"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=FONT)
    return save(figure, path)


def picked(entry: Entry) -> list[Pick]:
    """Worst, median and best case by Dice (mean over labels), of the cases with a truth."""
    evaluation = entry.evaluation
    ranked = sorted(
        (dice, number)
        for number, (dice, case) in enumerate(zip(evaluation.values("dice"), evaluation.cases, strict=True))
        if dice is not None and any(label.agreement.volume_truth for label in case.labels)
    )
    if not ranked:
        return []
    places = {"worst": 0, "median": len(ranked) // 2, "best": len(ranked) - 1}
    return [Pick(rank, ranked[place][1], ranked[place][0]) for rank, place in places.items()]


def _show(axes: Axes, entry: Entry, pick: Pick, data: DataSet, by_name: dict[str, Case]) -> None:
    """The slice with the most truth, and around it."""
    name = entry.evaluation.cases[pick.number].case
    loaded = data.load(by_name[name])
    found = read_found(entry.folder, pick.number)
    at = int((loaded.truth > 0).sum(axis=(1, 2)).argmax())
    truth_here, found_here = loaded.truth[at], found[at]
    box = view((truth_here > 0) | (found_here > 0))
    low, high = grey_limits(entry, loaded)
    image = loaded.volume.voxels[at][box]
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    for labels, colour, style in ((truth_here[box], TRUTH, "solid"), (found_here[box], FOUND, "dashed")):
        for number in np.unique(labels[labels > 0]):
            axes.contour(labels == number, levels=[0.5], colors=[colour], linewidths=2, linestyles=style)
    where = f", slice {at + 1}" if len(loaded.truth) > 1 else ""
    axes.set_title(f"{pick.rank}: Dice {pick.dice:.2f}\n{name}{where}", fontsize=FONT)
    axes.set_xticks([])
    axes.set_yticks([])


def grey_limits(entry: Entry, loaded: LoadedCase) -> tuple[float, float]:
    """The grey levels that the network sees apart, or nearly all that there are."""
    how = entry.job.experiment.preprocessing.intensity
    if isinstance(how, Window):
        return how.low, how.high
    low, high = np.percentile(loaded.volume.voxels, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def view(shown: npt.NDArray[np.bool_]) -> Box:
    """A square around what is to be seen, cut at the borders of the image."""
    shape = np.array(shown.shape)
    places = np.argwhere(shown)
    low, high = (places.min(axis=0), places.max(axis=0) + 1) if len(places) else (np.zeros(2), shape)
    half = max(AROUND * float((high - low).max()), LEAST_VIEW * float(shape.max())) / 2
    centre = (low + high) / 2
    first = np.floor(centre - half).clip(0, shape).astype(int)
    last = np.ceil(centre + half).clip(0, shape).astype(int)
    return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))
