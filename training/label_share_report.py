"""The tables and the figure of a comparison of starts at shares of the labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from training.compare import write_json
from training.label_shares import PartResult
from training.results import Values
from training.statistics import Interval, holm, paired_test, summarise

NAME = "label_shares"
TITLE = "Test Dice by share of the training labels"


@dataclass(frozen=True)
class Row:
    """One start at one share; over several seeds a case's Dice is its mean."""

    start: str
    share: float
    n_groups: int
    n_cases: int
    """Training groups and cases; with several seeds, their mean, rounded."""
    dice: float | None
    """Mean over the test cases, with its 95 % interval, cases drawn by group."""
    interval: Interval | None
    n_test: int
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]
    """Mean Dice of each seed."""
    gain: float | None
    """Mean difference of Dice to the first start at the same share; None for that one."""
    p: float | None
    """Wilcoxon signed-rank test of it (two-sided, groups as units), corrected by Holm over all rows."""


def to_rows(results: Sequence[PartResult]) -> list[Row]:
    """One row per start and share, in the order of the results."""
    cells: dict[tuple[str, float], list[PartResult]] = {}
    for result in results:
        cells.setdefault((result.part.start, result.part.share), []).append(result)
    first = results[0].part.start
    values = {key: _per_case(cell) for key, cell in cells.items()}
    groups = [case.group for case in results[0].evaluation.cases]
    against = {key: values[first, key[1]] for key in cells if key[0] != first}
    p = holm([paired_test(values[key], other, groups).p for key, other in against.items()])
    corrected = dict(zip(against, p, strict=True))
    return [
        _row(cell, values[key], groups, against.get(key), corrected.get(key)) for key, cell in cells.items()
    ]


def _row(
    cell: Sequence[PartResult], values: Values, groups: Sequence[str], other: Values | None, p: float | None
) -> Row:
    summary = summarise(values, groups)
    gain = None if other is None else summarise(_differences(values, other)).mean
    return Row(
        start=cell[0].part.start,
        share=cell[0].part.share,
        n_groups=round(fmean(result.n_groups for result in cell)),
        n_cases=round(fmean(result.n_cases for result in cell)),
        dice=summary.mean,
        interval=summary.mean_interval,
        n_test=summary.n,
        seeds=tuple(result.part.seed for result in cell),
        per_seed=tuple(result.evaluation.mean_dice() for result in cell),
        gain=gain,
        p=p,
    )


def _per_case(cell: Iterable[PartResult]) -> Values:
    """Dice of each test case, the mean over the seeds where it is defined."""
    rows = zip(*(result.evaluation.values("dice") for result in cell), strict=True)
    defined = ([value for value in row if value is not None] for row in rows)
    return [fmean(row) if row else None for row in defined]


def _differences(values: Values, other: Values) -> Values:
    pairs = zip(values, other, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def write_report(results: Sequence[PartResult], out: Path) -> list[Row]:
    """Write `label_shares` as .json, .csv, .md and .png into `out`; returns the rows."""
    rows = to_rows(results)
    write_json(out / f"{NAME}.json", {"rows": [asdict(row) for row in rows]})
    _write_csv(rows, out / f"{NAME}.csv")
    (out / f"{NAME}.md").write_text(to_markdown(rows), encoding="utf-8")
    draw(rows).savefig(out / f"{NAME}.png", dpi=150)
    return rows


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    columns = ("start", "share", "n_groups", "n_cases", "dice", "low", "high", "n_test", "gain", "p")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            low, high = row.interval or (None, None)
            writer.writerow(asdict(row) | {"low": low, "high": high})


def to_markdown(rows: Sequence[Row]) -> str:
    """The table, and how to read it."""
    lines = [
        f"# {TITLE}",
        "",
        "| labels | groups | cases | start | Dice (95 % interval) | gain | p |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.share:.0%} | {row.n_groups} | {row.n_cases} | {row.start} | {_dice(row)} | "
        f"{_number(row.gain, '+.3f')} | {_number(row.p, '.3g')} |"
        for row in rows
    ]
    seeds = ", ".join(map(str, rows[0].seeds))
    lines += [
        "",
        f"Mean over {rows[0].n_test} test cases; interval: bootstrap, cases drawn by group; seeds: {seeds} "
        "(with several, a case counts with its mean over them). Gain: mean difference to "
        f"`{rows[0].start}` at the same share; p: Wilcoxon signed-rank test over groups, corrected by Holm. "
        "Neither says how far another draw of the training groups would move the result.",
        "",
        f"![{TITLE}]({NAME}.png)",
        "",
    ]
    return "\n".join(lines)


def _dice(row: Row) -> str:
    low, high = row.interval or (None, None)
    return f"{_number(row.dice, '.3f')} ({_number(low, '.3f')} to {_number(high, '.3f')})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def draw(rows: Sequence[Row]) -> Figure:
    """Dice over the share, one line per start, with intervals."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    starts = list(dict.fromkeys(row.start for row in rows))
    for number, start in enumerate(starts):
        own = sorted((row for row in rows if row.start == start), key=lambda row: row.share)
        dice = [float("nan") if row.dice is None else row.dice for row in own]
        ends = [row.interval or (value, value) for row, value in zip(own, dice, strict=True)]
        below = [max(0.0, value - low) for value, (low, _) in zip(dice, ends, strict=True)]
        above = [max(0.0, high - value) for value, (_, high) in zip(dice, ends, strict=True)]
        beside = 1.0 + 0.03 * (number - (len(starts) - 1) / 2)  # intervals shall not cover each other
        places = [row.share * beside for row in own]
        axes.errorbar(places, dice, yerr=[below, above], marker="o", capsize=3, label=start)
    shares = sorted({row.share for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("share of the labelled training groups")
    axes.set_ylabel("test Dice, mean and 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
