"""The numbers of the report as lines: summed up, and case by case; and as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from training.report.entries import Entry, Results
from training.results import METRICS, Evaluation
from training.statistics import Interval, Summary, summarise

OVER_LABELS = "mean over labels"
ALL, WITH_TRUTH = "all", "with truth"
SENSITIVITY, FALSE_FINDINGS = "lesion_sensitivity", "false_findings_per_case"
DISTANCES = ("hausdorff", "hd95")


@dataclass(frozen=True)
class Line:
    """One number with its uncertainty. What is None does not exist."""

    task: str
    protocol: str
    network: str
    label: str
    cases: str
    """All of the test split, or those with a truth."""
    metric: str
    unit: str
    mean: float | None
    mean_low: float | None
    mean_high: float | None
    median: float | None
    median_low: float | None
    median_high: float | None
    n: int
    """Cases; for the sensitivity: lesions."""
    undefined: int


@dataclass(frozen=True)
class CaseLine:
    """One label in one case."""

    task: str
    protocol: str
    network: str
    case: str
    group: str
    stratum: str
    label: str
    dice: float
    iou: float
    surface_dice: float
    hausdorff: float | None
    hd95: float | None
    volume_error: float | None
    n_lesions: int | None
    n_hit: int | None
    n_false: int | None
    seconds: float


def labels_of(evaluation: Evaluation) -> list[str | None]:
    """What is reported: each label and, where there are several, None for the mean over them."""
    names: list[str | None] = list(evaluation.label_names)
    return names if len(names) == 1 else [None, *names]


def lines(results: Results) -> Iterator[Line]:
    """Every number of every entry."""
    for entry in results.entries:
        for part in parts_of(entry.evaluation):
            for label in labels_of(entry.evaluation):
                yield from lines_of(entry, label, part)


def parts_of(evaluation: Evaluation) -> dict[str, Evaluation]:
    """All cases and, where some have no truth, those that have."""
    parts = {ALL: evaluation}
    having = tuple(
        case for case in evaluation.cases if any(label.agreement.volume_truth for label in case.labels)
    )
    if 0 < len(having) < len(evaluation.cases):
        parts[WITH_TRUTH] = replace(evaluation, cases=having)
    return parts


def lines_of(entry: Entry, label: str | None, part: str = ALL) -> Iterator[Line]:
    """The numbers of one label, or (None) of the mean over the labels, over a part of the cases."""
    evaluation = parts_of(entry.evaluation)[part]
    for metric, summary in evaluation.summaries(label).items():
        unit = evaluation.distance_unit if metric in DISTANCES else "share"
        yield _line(entry, label, part, metric, unit, summary)
    if label is None:
        return
    totals = evaluation.totals(label)
    if totals.n_lesions is not None:
        interval = totals.sensitivity_interval
        found = Summary(totals.sensitivity, None, interval, None, totals.n_lesions, 0)
        yield _line(entry, label, part, SENSITIVITY, "share", found)
        yield _line(entry, label, part, FALSE_FINDINGS, "findings", _false_findings(evaluation, label))


def _false_findings(evaluation: Evaluation, label: str) -> Summary:
    index = evaluation.label_names.index(label)
    counts = [case.labels[index].n_false for case in evaluation.cases]
    return summarise(counts, [case.group for case in evaluation.cases])


def _line(entry: Entry, label: str | None, part: str, metric: str, unit: str, summary: Summary) -> Line:
    job = entry.job
    name = OVER_LABELS if label is None else label
    mean, median = _ends(summary.mean_interval), _ends(summary.median_interval)
    return Line(
        job.task, job.protocol, job.network, name, part, metric, unit,
        summary.mean, *mean, summary.median, *median, summary.n, summary.n_undefined,
    )  # fmt: skip


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else interval


def case_lines(results: Results) -> Iterator[CaseLine]:
    """Every case of every entry, label by label."""
    for entry in results.entries:
        job, names = entry.job, entry.evaluation.label_names
        for case in entry.evaluation.cases:
            for name, label in zip(names, case.labels, strict=True):
                found = asdict(label.agreement)
                yield CaseLine(
                    job.task, job.protocol, job.network, case.case, case.group, case.stratum, name,
                    **{metric: found[metric] for metric in METRICS},
                    n_lesions=label.n_lesions, n_hit=label.n_hit, n_false=label.n_false,
                    seconds=case.seconds,
                )  # fmt: skip


def write_csv(path: Path, kind: type[Line] | type[CaseLine], content: Iterator[Line | CaseLine]) -> None:
    """One line each under a heading; None is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(line) for line in content)
