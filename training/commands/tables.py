"""Results as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from training.evaluate import ScanResult
from training.readme import METRICS, figure, with_interval
from training.results import Evaluation


def evaluation_table(result: Evaluation, name: str = "") -> Table:
    """Mean and median per label and metric, with 95 % intervals."""
    figures = result.figures()
    title = f"{figures['n_cases']} cases of {figures['n_groups']} groups"
    table = Table("label", "metric", title=f"{name}: {title}" if name else title)
    for column in ("mean", "median", "undefined"):
        table.add_column(column, justify="right")
    for label, summaries in figures["labels"].items():
        for key, metric in METRICS.items():
            words = metric.format(tolerance=result.tolerance, unit=result.distance_unit)
            cells = (with_interval(summaries[key], part) for part in ("mean", "median"))
            table.add_row(label, words, *cells, str(summaries[key]["n_undefined"]))
        if summaries["n_lesions"] is not None:
            hit = f"{summaries['n_hit']} of {summaries['n_lesions']}"
            table.add_row(label, "lesions hit", hit)
            table.add_row(label, "false findings", str(summaries["n_false"]))
        if summaries["n_empty"]:
            alarms = f"{summaries['n_false_alarms']} of {summaries['n_empty']}"
            table.add_row(label, "false alarms on empty cases", alarms)
    return table


def case_table(result: Evaluation) -> Table:
    """One line per case and label; a distance that does not exist is a dash."""
    unit = result.distance_unit
    table = Table("case", "label", "Dice", "IoU", f"Hausdorff {unit}", f"HD95 {unit}", "hit", "false")
    for case in result.cases:
        for name, found in zip(result.label_names, case.labels, strict=True):
            values = found.agreement
            cells = (figure(v) for v in (values.dice, values.iou, values.hausdorff, values.hd95))
            hit = "" if found.n_lesions is None else f"{found.n_hit}/{found.n_lesions}"
            table.add_row(case.case, name, *cells, hit, "" if found.n_false is None else str(found.n_false))
    return table


def scan_sentence(result: ScanResult) -> str:
    """One whole scan in one line."""
    start = f"{result.scan}: {result.n_findings} findings in {result.n_slices} slices"
    if result.dice is None:
        return f"{start}; no mask, so nothing is known of their truth"
    return (
        f"{start}; {result.n_hit} of {result.n_lesions} lesions hit, {result.n_false} false; "
        f"Dice of hits {result.dice_of_hits:.3f}, of everything {result.dice:.3f}"
    )
