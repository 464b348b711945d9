"""The pictures of the report, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.trust.calibration import Calibration
from training.trust.explained import Explained
from training.trust.observe import CaseTrust
from training.trust.uncertainty import FAILED_BELOW, ErrorForetold

BLUE, ORANGE, GREEN, GREY, CYAN = "#0072b2", "#e69f00", "#009e73", "#777777", "#00e5ff"
"""Colours that the colour-blind tell apart (Okabe and Ito), and one that shows on grey images."""
DPI = 110
FADED = 0.65
"""How opaque the strongest part of a map is."""


def reliability(path: Path, curves: dict[str, Calibration]) -> None:
    """Reliability curves side by side, by their titles, with the number of voxels of each bin below."""
    figure = Figure(figsize=(4.6 * len(curves), 5.8), layout="constrained")
    axes = figure.subplots(2, len(curves), sharex=True, squeeze=False, height_ratios=(3, 1))
    for (title, curve), (above, below) in zip(curves.items(), axes.T, strict=True):
        filled = [item for item in curve.bins if item.n]
        above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
        above.plot(
            [item.mean_probability for item in filled],
            [item.frequency for item in filled],
            color=BLUE,
            marker="o",
            label="measured",
        )
        above.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel="share that is lesion")
        above.set_title(f"{title}\nECE {curve.ece:.3f}, Brier {curve.brier:.3f}, NLL {curve.nll:.3f}")
        above.legend(loc="upper left")
        edges = [item.low for item in curve.bins]
        below.bar(edges, [item.n for item in curve.bins], 1 / len(edges), align="edge", color=BLUE)
        below.set(xlabel="probability", ylabel="voxels", yscale="log")
    _save(figure, path)


def risk_coverage(path: Path, foretold: dict[str, ErrorForetold], errors: Sequence[float]) -> None:
    """Mean error among the surest cases by each uncertainty, beside the best order and none at all."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for (words, found), colour in zip(foretold.items(), (BLUE, ORANGE, GREEN), strict=False):
        axes.plot(found.coverage, found.risk, color=colour, label=f"{words}: {found.aurc:.3f}")
    numbers = np.arange(len(errors)) + 1
    best = np.cumsum(np.sort(errors)) / numbers
    chance = float(np.mean(errors))
    axes.plot(
        numbers / len(errors), best, color=GREY, linestyle=":", label=f"the error itself: {best.mean():.3f}"
    )
    axes.axhline(chance, color=GREY, linestyle="--", label=f"no order: {chance:.3f}")
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="share of the cases, surest first")
    axes.set(ylabel="mean of 1 - Dice over that share")
    figure.legend(title="order, and area under its curve", loc="outside lower center", ncols=2)
    _save(figure, path)


def error_by_uncertainty(path: Path, cases: Sequence[CaseTrust], measures: dict[str, str]) -> None:
    """1 - Dice of every case against each uncertainty; above the line a case counts as failed."""
    figure = Figure(figsize=(4.2 * len(measures), 4.2), layout="constrained")
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for one, (key, words) in zip(axes, measures.items(), strict=True):
        known = [(getattr(case, key), 1.0 - case.dice) for case in cases if getattr(case, key) is not None]
        one.scatter(*zip(*known, strict=True), color=BLUE, alpha=0.6, s=22)
        one.axhline(1.0 - FAILED_BELOW, color=ORANGE, linestyle="--", linewidth=1)
        one.set(xlabel=words, ylim=(-0.03, 1.03))
    axes[0].set_ylabel("1 - Dice")
    _save(figure, path)


def volumes(path: Path, cases: Sequence[CaseTrust]) -> None:
    """Found against true volume with two standard deviations each way, on a scale of cube roots."""
    figure = Figure(figsize=(5.8, 5.6), layout="constrained")
    axes = figure.subplots()
    for covered, colour, words in ((True, BLUE, "truth within 2 SD"), (False, ORANGE, "truth beyond 2 SD")):
        some = [case for case in cases if case.covered is covered]
        axes.errorbar(
            [case.volume_truth for case in some],
            [case.volume_found for case in some],
            [
                [min(2.0 * case.volume_sd, case.volume_found) for case in some],  # none is below nothing
                [2.0 * case.volume_sd for case in some],
            ],
            fmt="o", markersize=4, color=colour, elinewidth=1, alpha=0.8, label=f"{words}: {len(some)} cases",
        )  # fmt: skip
    largest = max(max(c.volume_truth, c.volume_found + 2.0 * c.volume_sd) for c in cases) or 1.0
    axes.plot([0, largest], [0, largest], color=GREY, linestyle="--", linewidth=1)
    ticks = _ticks(largest)
    limits, names = (-largest / 10000, 1.1 * largest), [f"{tick:,g}" for tick in ticks]
    axes.set_xscale("function", functions=(np.cbrt, _cube))
    axes.set_yscale("function", functions=(np.cbrt, _cube))
    axes.set_xticks(ticks, names, rotation=45)
    axes.set_yticks(ticks, names)
    axes.set(xlim=limits, ylim=limits, xlabel=f"true volume, {cases[0].unit}", aspect="equal")
    axes.set(ylabel=f"found volume, {cases[0].unit}; bars: 2 SD")
    figure.legend(loc="outside upper center", ncols=2)
    _save(figure, path)


def explanation(path: Path, one: Explained) -> None:
    """Image, Grad-CAM and occlusion map of one slice, each with the outlines of truth and findings."""
    rows, columns = one.image.shape
    width = 3.6
    figure = Figure(figsize=(3 * width + 1.2, width * rows / columns + 1.3), layout="constrained")
    plain, cam, hidden = figure.subplots(1, 3)
    low, high = np.percentile(one.image, (0.5, 99.5))
    for axes in (plain, cam, hidden):
        axes.imshow(one.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        for mask, colour, style in ((one.truth, CYAN, "solid"), (one.found, ORANGE, "dashed")):
            if mask.any():
                axes.contour(mask, levels=[0.5], colors=colour, linestyles=style, linewidths=1.3)
        axes.set(xticks=[], yticks=[])
    plain.set_title("image")
    strength = FADED * one.cam.clip(0.0, 1.0)
    drawn = cam.imshow(one.cam, cmap="magma", vmin=0.0, vmax=1.0, alpha=strength)
    figure.colorbar(drawn, ax=cam, shrink=0.8)
    cam.set_title("seg-Grad-CAM" if one.cam.any() else "seg-Grad-CAM: nothing\nspeaks for the label")
    most = max(float(np.abs(one.occlusion).max()), 1e-6)
    drawn = hidden.imshow(
        one.occlusion, cmap="PiYG_r", vmin=-most, vmax=most, alpha=FADED * np.abs(one.occlusion) / most
    )
    figure.colorbar(drawn, ax=hidden, shrink=0.8)
    hidden.set_title("drop of the probability\nwhen hidden")
    trust, found = one.choice.trust, "found" if one.found.any() else "found: nothing on this slice"
    figure.suptitle(f"{trust.case}: Dice {trust.dice:.3f} ({one.choice.words})")
    figure.legend(
        handles=[
            Line2D([], [], color=CYAN, label="truth"),
            Line2D([], [], color=ORANGE, linestyle="dashed", label=found),
        ],
        loc="outside lower center",
        ncols=2,
    )
    _save(figure, path)


def _cube(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    cubes: npt.NDArray[np.float64] = np.asarray(values) ** 3
    return cubes


def _ticks(largest: float) -> list[float]:
    """Round numbers, about evenly spaced on a scale of cube roots."""
    ticks = [0.0]
    for part in range(1, 7):
        value = largest * (part / 6) ** 3
        power = 10.0 ** np.floor(np.log10(value))
        ticks.append(float(round(value / power) * power))
    return sorted(set(ticks))


def _save(figure: Figure, path: Path) -> None:
    """Without the name of the program, so that the same numbers give the same file."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
