"""The tables of one task: overlap and distances, kinds of case, cost, and which networks differ."""

from __future__ import annotations

from itertools import combinations

from training.report.document import Table
from training.report.entries import Entry, Results
from training.report.numbers import FALSE_FINDINGS, SENSITIVITY, Line, labels_of, lines_of, parts_of
from training.statistics import PairedTest, holm, paired_test

NONE = "-"
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "Surface Dice",
    "hausdorff": "Hausdorff",
    "hd95": "HD95",
    "volume_error": "Volume error",
    SENSITIVITY: "Lesion sensitivity",
    FALSE_FINDINGS: "False findings per case",
}
SIGNIFICANT = 0.05


def number_tables(entries: list[Entry]) -> list[Table]:
    """Means and medians with their 95 % intervals; of all cases and, where some are empty, without them.

    Lesions are counted over all cases, so that they have no median.
    """
    medians = [metric for metric in TITLES if metric not in (SENSITIVITY, FALSE_FINDINGS)]
    tables = []
    for part, evaluation in parts_of(entries[0].evaluation).items():
        for key, metrics in (("mean", list(TITLES)), ("median", medians)):
            caption = f"{key.capitalize()} (95 % interval), cases: {part}, n = {len(evaluation.cases)}"
            tables.append(_numbers_table(caption, entries, part, metrics, key))
    return tables


def _numbers_table(caption: str, entries: list[Entry], part: str, metrics: list[str], key: str) -> Table:
    """One line per network and label."""
    evaluation = entries[0].evaluation
    several = len(labels_of(evaluation)) > 1
    titles = [_with_unit(metric, evaluation.distance_unit) for metric in metrics]
    rows = []
    for label in labels_of(evaluation):
        for entry in entries:
            found = {line.metric: line for line in lines_of(entry, label, part)}
            cells = [_cell(found.get(metric), key) for metric in metrics]
            name = (found["dice"].label,) if several else ()
            rows.append((entry.title, *name, *cells, str(found["hausdorff"].undefined)))
    columns = ("Network", *(("Label",) if several else ()), *titles, "Without a distance")
    return Table(caption, columns, tuple(rows))


def _with_unit(metric: str, unit: str) -> str:
    return f"{TITLES[metric]}, {unit}" if metric in ("hausdorff", "hd95") else TITLES[metric]


def _cell(line: Line | None, key: str) -> str:
    if line is None:
        return NONE
    value, low, high = (getattr(line, name) for name in (key, f"{key}_low", f"{key}_high"))
    digits = 3 if line.unit == "share" else 2
    if value is None:
        return NONE
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def strata_table(entries: list[Entry]) -> Table | None:
    """Mean Dice by kind of case, and false alarms where there is nothing to find; None for one kind."""
    evaluation = entries[0].evaluation
    if not evaluation.strata:
        return None
    counts = {name: len(evaluation.of_stratum(name).cases) for name in evaluation.strata}
    columns = [f"{name} (n = {count})" for name, count in counts.items()]
    rows = []
    for entry in entries:
        dice = [entry.evaluation.of_stratum(name).mean_dice() for name in evaluation.strata]
        totals = [entry.evaluation.totals(name) for name in evaluation.label_names]
        alarms = "; ".join(f"{label.n_false_alarms} of {label.n_empty}" for label in totals)
        rows.append((entry.title, *(f"{value:.3f}" for value in dice), alarms))
    caption = "Mean Dice by kind of case, and cases without truth in which something was found"
    return Table(caption, ("Network", *columns, "False alarms"), tuple(rows))


def cost_table(entries: list[Entry]) -> Table:
    """What each network took."""
    rows = []
    for entry in entries:
        cost, cases = entry.cost, entry.evaluation.cases
        seconds = sum(case.seconds for case in cases) / len(cases)
        window = NONE if cost["window"] is None else " x ".join(map(str, cost["window"]))
        steps = NONE if cost["steps"] is None else f"{cost['steps']} ({cost['best_step']})"
        sizes = (_millions(cost["parameters"]), _millions(cost["multiply_adds"]), window)
        times = (f"{seconds:.3f}", f"{cost['training_seconds']:.0f}", steps)
        rows.append((entry.title, *sizes, *times, entry.stored["environment"]["device"]))
    columns = (
        "Network", "Parameters, million", "Multiply-adds, million", "of a window of",
        "Seconds per case", "Seconds of training", "Steps (best)", "Device",
    )  # fmt: skip
    return Table("Cost", columns, tuple(rows))


def _millions(count: int | None) -> str:
    return NONE if count is None else f"{count / 1e6:.2f}"


def pairs_table(entries: list[Entry]) -> Table | None:
    """Every pair of networks: line minus column. None for fewer than two."""
    if len(entries) < 2:
        return None
    pairs = list(combinations(range(len(entries)), 2))
    tests = [compared(entries[a], entries[b]) for a, b in pairs]
    corrected = dict(zip(pairs, zip(tests, holm([test.p for test in tests]), strict=True), strict=True))
    rows = [
        (entry.title, *(_verdict(*corrected[row, column]) if (row, column) in corrected else ""
                        for column in range(1, len(entries))))
        for row, entry in enumerate(entries[:-1])
    ]  # fmt: skip
    caption = "Dice, line minus column: median difference; p by Wilcoxon, Holm-corrected; * p < 0.05"
    return Table(caption, ("Network", *(entry.title for entry in entries[1:])), tuple(rows))


def protocols_table(results: Results, task: str) -> Table | None:
    """Each network in the second protocol against the first; None for fewer than two protocols."""
    names = results.protocols(task)
    if len(names) < 2:
        return None
    first, second = ({e.job.network: e for e in results.of(task, name)} for name in names[:2])
    both = [network for network in first if network in second and not first[network].job.traditional]
    tests = [compared(second[network], first[network]) for network in both]
    verdicts = [_verdict(t, p) for t, p in zip(tests, holm([t.p for t in tests]), strict=True)]
    rows = []
    for network, verdict in zip(both, verdicts, strict=True):
        dice = [f"{entries[network].evaluation.mean_dice():.3f}" for entries in (first, second)]
        rows.append((first[network].title, *dice, verdict))
    caption = f"Mean Dice in both protocols, and the median difference {names[1]} minus {names[0]}"
    return Table(caption, ("Network", *names[:2], "Difference"), tuple(rows)) if rows else None


def compared(one: Entry, other: Entry) -> PairedTest:
    """Paired test of Dice, mean over the labels, on the cases that both were measured on."""
    known = dict(zip(_names(other), other.evaluation.values("dice"), strict=True))
    values = one.evaluation.values("dice")
    pairs = [
        (value, known[case.case], case.group)
        for value, case in zip(values, one.evaluation.cases, strict=True)
        if case.case in known
    ]
    return paired_test([p[0] for p in pairs], [p[1] for p in pairs], [p[2] for p in pairs])


def _names(entry: Entry) -> list[str]:
    return [case.case for case in entry.evaluation.cases]


def _verdict(test: PairedTest, p: float | None) -> str:
    if p is None or test.median_difference is None:
        return test.reason
    star = " *" if p < SIGNIFICANT else ""
    return f"{test.median_difference:+.3f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}{star}"
