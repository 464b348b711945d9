"""What the report says, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.config import Experiment
from training.report.document import Block, Code, Heading, Picture, Table, Text
from training.report.entries import Entry, Results
from training.report.figures import box_plots, learning_curves
from training.report.numbers import parts_of
from training.report.overlays import overlays
from training.report.tables import (
    cost_table,
    number_tables,
    pairs_table,
    protocols_table,
    strata_table,
)
from training.statistics import LEVEL, RESAMPLES

PUBLISHED = (("0.85", "0.76", "3.2 mm"), ("0.82", "0.73", "3.8 mm"), ("0.78", "0.69", "4.1 mm"))
"""Dice, IoU and Hausdorff distance of the three published networks."""
PUBLISHED_NETWORKS = ("unet", "fcn", "attention-unet")

HOW_COUNTED = (
    "All numbers are of the test split, which no choice was made on. Every network of a task saw the same "
    "cases, images, split, seed and budget. Empty masks count: where neither truth nor finding has a pixel, "
    "Dice, IoU and surface Dice are 1 and the distances 0; where only one is empty, they are 0, there is no "
    "distance, and the case is left out of the mean distance (the last column says how many were). A network "
    "that misses many lesions can therefore show a small mean distance. The volume error is signed, (found - "
    "truth) / truth, and does not exist without truth. A lesion is hit when any found pixel touches it; a "
    "false finding touches none. Organs are not counted in pieces.",
    f"Intervals hold {LEVEL:.0%}: of means and medians by the bootstrap ({RESAMPLES} draws of whole groups, "
    "such as patients), of the sensitivity by Wilson. Differences are tested with Wilcoxon's signed-rank "
    "test on the means of groups, corrected by Holm within each table. Each network was trained once: "
    "the intervals hold the chance of the cases, not the chance of the training.",
)


def compose(results: Results, folder: Path, command: str) -> list[Block]:
    """The whole document; draws its pictures into `folder`/pictures."""
    blocks: list[Block] = [
        Heading(1, "Comparison of segmentation networks"),
        *_how_made(results, command),
        *_not_there(results),
        Heading(2, "How to read the numbers"),
        *map(Text, HOW_COUNTED),
        *_ranking(results),
        *_published(results),
    ]
    for task in results.tasks:
        blocks += _of_task(results, task, folder / "pictures")
    return blocks


def _how_made(results: Results, command: str) -> list[Block]:
    budget = results.comparison.plan.budget
    batch = "of the protocol or task" if budget.batch_size is None else str(budget.batch_size)
    lines: list[Block] = [
        Code(command),
        Text(
            f"Budget of each network: {budget.steps} steps, validated every {budget.validate_every}; "
            f"batch size {batch} (the protocol paper always has 16 and may stop early). "
            "The method without a network is fitted once to all training cases and has no steps."
        ),
    ]
    rows = tuple(_environment_row(results, task) for task in results.tasks)
    columns = ("Task", "Seed", "Test cases (groups)", "SHA-256 of the data", "Device", "Commit")
    if not rows:
        return lines
    table = Table("Where the numbers come from", columns, rows)
    versions = [entry.stored["environment"]["libraries"] for entry in results.entries]
    used = _different([", ".join(f"{k} {v}" for k, v in libraries.items()) for libraries in versions])
    return [*lines, table, Text(f"Libraries: {used}.")]


def _environment_row(results: Results, task: str) -> tuple[str, ...]:
    """What the results of a task were made with; several values where they differ."""
    entries = results.of(task)
    places = [entry.stored["environment"] for entry in entries]
    cases = entries[0].evaluation.cases
    return (
        task,
        _different([str(entry.job.experiment.fitting.seed) for entry in entries]),
        f"{len(cases)} ({len({case.group for case in cases})})",
        _different([entry.stored["data_digest"] for entry in entries]),
        _different([place["device"] for place in places]),
        _different([place["commit"] or "not in a checkout" for place in places]),
    )


def _different(values: list[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _not_there(results: Results) -> list[Block]:
    blocks: list[Block] = []
    if results.failures:
        rows = tuple((job.name, message) for job, message in results.failures)
        blocks += [Heading(2, "Failed"), Table("These could not be compared", ("Network", "Message"), rows)]
    if results.missing:
        names = ", ".join(job.name for job in results.missing)
        blocks += [Heading(2, "Not yet run"), Text(f"{names}. Run the command again to add them.")]
    return blocks


def _ranking(results: Results) -> list[Block]:
    rows = []
    for task in results.tasks:
        for protocol in results.protocols(task):
            ranked = sorted(results.of(task, protocol), key=lambda e: e.evaluation.mean_dice(), reverse=True)
            order = ", ".join(f"{entry.title} {entry.evaluation.mean_dice():.3f}" for entry in ranked)
            rows.append((task, protocol, order))
    columns = ("Task", "Protocol", "Networks by mean Dice; neighbours need not differ, see the tests")
    return [Heading(2, "Ranking"), Table("Order of the networks", columns, tuple(rows))] if rows else []


def _published(results: Results) -> list[Block]:
    """The published numbers beside those of the same networks in the same protocol."""
    entries = [
        entry
        for entry in results.entries
        if entry.job.protocol == "paper" and entry.job.network in PUBLISHED_NETWORKS
    ]
    if not entries:
        return []
    rows: list[tuple[str, ...]] = [
        (f"published, row {number}", "-", "-", *row) for number, row in enumerate(PUBLISHED, 1)
    ]
    rows += [row for entry in entries for row in _beside(entry)]
    text = (
        "The publication compares U-Net, FCN and attention U-Net on CT, MR and ultrasound. Its three rows "
        "are given as published, without saying which network a row is of. Its images are not those used "
        "here, so the numbers can be set side by side but not subtracted."
    )
    columns = ("Network", "Task", "Cases", "Mean Dice", "Mean IoU", "Mean Hausdorff")
    caption = "Published, and the protocol paper on the data at hand"
    return [Heading(2, "Beside the published numbers"), Text(text), Table(caption, columns, tuple(rows))]


def _beside(entry: Entry) -> Iterator[tuple[str, ...]]:
    """Means over the labels, of all cases and of those with a truth."""
    for part, evaluation in parts_of(entry.evaluation).items():
        found = evaluation.summaries()
        overlap = (f"{found[metric].mean:.3f}" for metric in ("dice", "iou"))
        far = found["hausdorff"].mean
        distance = "-" if far is None else f"{far:.1f} {evaluation.distance_unit}"
        yield (entry.title, entry.job.task, part, *overlap, distance)


def _of_task(results: Results, task: str, pictures: Path) -> list[Block]:
    entries = results.of(task)
    blocks: list[Block] = [
        Heading(2, task),
        Text(_about(entries[0].job.experiment, entries[0])),
        Picture(
            box_plots(entries, pictures / f"{task}_boxes.png"),
            f"Box plots of Dice and HD95 per test case, {task}",
        ),
    ]
    for protocol in results.protocols(task):
        blocks += [Heading(3, f"{task}, protocol {protocol}")]
        blocks += _of_protocol(results.of(task, protocol), pictures / f"{task}_{protocol}")
    against = protocols_table(results, task)
    if against is not None:
        blocks += [Heading(3, f"{task}, the protocols against each other"), against]
    return blocks


def _about(experiment: Experiment, entry: Entry) -> str:
    target, evaluation = experiment.target, entry.evaluation
    names = ", ".join(label.name for label in target.labels)
    size = " x ".join(map(str, experiment.preprocessing.window_size))
    known = "" if evaluation.distance_unit == "mm" else "; the size of a pixel is not known"
    return (
        f"{target.modality}: {names}. Window {size}, {experiment.preprocessing.channels} slice(s) as input. "
        f"Distances are in {evaluation.distance_unit}{known}; surface Dice at {evaluation.tolerance:g} "
        f"{evaluation.distance_unit}."
    )


def _of_protocol(entries: list[Entry], start: Path) -> list[Block]:
    tables = (*number_tables(entries), strata_table(entries), pairs_table(entries), cost_table(entries))
    blocks: list[Block] = [table for table in tables if table is not None]
    curves = learning_curves(entries, start.with_name(f"{start.name}_curves.png"))
    shown = overlays(entries, start.with_name(f"{start.name}_cases.png"))
    if curves is not None:
        blocks.append(Picture(curves, "Learning curves: training loss, validation loss, validation Dice"))
    if shown is not None:
        blocks.append(Picture(shown, "Worst, median and best test case of each network, with outlines"))
    return blocks
