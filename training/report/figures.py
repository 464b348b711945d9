"""Box plots and learning curves. Colours are those of Okabe and Ito, apart for colour-blind eyes too."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from training.networks import CATALOGUE
from training.report.entries import Entry

BLUE, ORANGE, INK = "#0072B2", "#E69F00", "#1b1b1b"
COLOURS = ("#000000", ORANGE, "#56B4E9", "#009E73", BLUE, "#D55E00", "#CC79A7", "#7f7f7f")
MARKERS = "osD^vPX*"
OF_PROTOCOL = {"paper": BLUE, "best": ORANGE}
CURVES = {"loss": "training loss", "val_loss": "validation loss", "val_dice": "validation Dice"}
DOTS_PER_INCH = 100
FONT = 11


def box_plots(entries: list[Entry], path: Path) -> Path:
    """Dice and HD95 per case, a box per network and protocol.

    A box spans the quartiles and its line is the median; the diamond is the mean; whiskers reach to
    1.5 times the box, cases beyond them are dots. Dice is the mean over the labels.
    """
    networks = list(dict.fromkeys(entry.job.network for entry in entries))
    protocols = list(dict.fromkeys(entry.job.protocol for entry in entries))
    unit = entries[0].evaluation.distance_unit
    figure = Figure(figsize=(11, 1.6 + 0.35 * len(networks) * (1 + len(protocols))), layout="constrained")
    metrics = {"dice": "Dice", "hd95": f"HD95 ({unit})"}
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), metrics.items(), strict=True):
        for entry in entries:
            place = networks.index(entry.job.network)
            offset = (protocols.index(entry.job.protocol) - (len(protocols) - 1) / 2) * 0.8 / len(protocols)
            values = [value for value in entry.evaluation.values(metric) if value is not None]
            _box(axes, values, place + offset, 0.7 / len(protocols), OF_PROTOCOL[entry.job.protocol])
        axes.set_yticks(range(len(networks)), [CATALOGUE[name].title for name in networks], fontsize=FONT)
        axes.set_ylim(len(networks) - 0.4, -0.6)
        axes.set_xlabel(f"{title}, test cases", fontsize=FONT)
        axes.tick_params(axis="x", labelsize=FONT)
        axes.grid(axis="x", alpha=0.3)
    handles = [Patch(facecolor=OF_PROTOCOL[name], edgecolor=INK, label=name) for name in protocols]
    figure.legend(
        handles=handles, title="protocol", loc="outside right upper", fontsize=FONT, title_fontsize=FONT
    )
    return save(figure, path)


def _box(axes: Axes, values: list[float], place: float, width: float, colour: str) -> None:
    axes.boxplot(
        [values],
        positions=[place],
        widths=width,
        orientation="horizontal",
        manage_ticks=False,
        patch_artist=True,
        showmeans=True,
        boxprops={"facecolor": colour, "edgecolor": INK},
        medianprops={"color": INK, "linewidth": 2},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": INK, "markersize": 6},
        flierprops={"marker": "o", "markersize": 3, "markerfacecolor": INK, "alpha": 0.4},
    )


def learning_curves(entries: list[Entry], path: Path) -> Path | None:
    """Losses and validation Dice over the steps; None when nothing was trained in steps."""
    trained = [entry for entry in entries if entry.history]
    if not trained:
        return None
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for entry in trained:
            number = list(CATALOGUE).index(entry.job.network) % len(COLOURS)
            axes.plot(
                [point["step"] for point in entry.history],
                [point[key] for point in entry.history],
                color=COLOURS[number],
                marker=MARKERS[number],
                markersize=5,
                label=entry.title,
            )
        axes.set_xlabel("step", fontsize=FONT)
        axes.set_title(title, fontsize=FONT + 1)
        axes.tick_params(labelsize=FONT)
        axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=FONT)
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """As PNG, without a word on the program that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
    return path
