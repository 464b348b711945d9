"""The README of a bundle: what the model is for, how it came about, how good it is, its limits."""

from __future__ import annotations

from typing import Any

from training.config import Experiment
from training.evaluate import Evaluation, ScanResult

METRICS = {
    "dice": ("Dice", ""),
    "iou": ("IoU", ""),
    "hausdorff_mm": ("Hausdorff distance", " mm"),
    "hd95_mm": ("95th percentile of it (HD95)", " mm"),
}

TEMPLATE = """# {title}

{description}

**Research use only.** Version {version}, state `{state}`.

## How it was trained

```
{command}
dicomtrain export RUN_DIR BUNDLE_DIR --experiment EXPERIMENT.toml --scan NAME_image.nrrd
```

Legs are stretches of the same run under another schedule or loss (`fit --accept-changes`).

| | |
|---|---|
{training}

The best weights on the validation split were kept (moving average of the weights), judged with the
decision limits in force while training, rounded to half precision, and measured as they lie here.

## Test: {n_cases} crops of patients that training never saw

`dicomtrain evaluate BUNDLE_DIR EXPERIMENT.toml`

| metric | mean | median | cases without a value |
|---|---|---|---|
{metrics}

{hit} of {lesions} lesions were touched by a finding; {false} findings in these crops touch no lesion.
The crops are centred on a nodule and run through the node's own code except the search for the lungs.
A case where nothing was found has the Dice and IoU 0 and no distance: it is left out of the
distances and counted in the last column.

## Whole scans

Crops say nothing about false findings elsewhere. None of these scans was trained on; lung1 and lung2
come with the source distribution of pyradiomics 3.0.1 (BSD-3), in slices of 5 mm.

`dicomtrain scan BUNDLE_DIR NAME_image.nrrd --mask NAME_label.nrrd`

{scans}

## Limits

{limits}

## Data

{attribution}"""


def render(
    experiment: Experiment, training: dict[str, Any], test: Evaluation, scans: tuple[ScanResult, ...]
) -> str:
    """The README as Markdown. Every figure comes from the arguments, as in the model card."""
    target, plain = experiment.target, test.to_plain()
    return TEMPLATE.format(
        title=target.title,
        description=target.description,
        version=target.version,
        state=target.state,
        command=training["command"],
        training="\n".join(f"| {key} | {value} |" for key, value in training.items() if key != "command"),
        n_cases=plain["n_cases"],
        metrics="\n".join(metric_row(key, plain[key]) for key in METRICS),
        hit=plain["n_lesions_hit"],
        lesions=plain["n_lesions"],
        false=plain["n_false_findings"],
        scans=scan_table(scans),
        limits="\n".join(f"- {limit}" for limit in target.limits),
        attribution=experiment.data.attribution,
    )


def metric_row(key: str, summary: dict[str, Any]) -> str:
    """One line of the table of test metrics."""
    name, unit = METRICS[key]
    mean, median = (figure(summary[part], unit) for part in ("mean", "median"))
    return f"| {name} | {mean} | {median} | {summary['n_undefined']} |"


def figure(value: float | None, unit: str = "") -> str:
    """A value with three decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}{unit}"


def scan_table(scans: tuple[ScanResult, ...]) -> str:
    """Whole scans as a table, or a sentence when none was measured."""
    if not scans:
        return "None was measured."
    head = (
        "| scan | slices | findings | lesions hit | false findings | Dice of hits | Dice of everything |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(scan_row(result) for result in scans)


def scan_row(result: ScanResult) -> str:
    """One line of the table of whole scans."""
    slices = f"{result.n_slices} of {result.slice_mm:g} mm"
    if result.dice is None or result.dice_of_hits is None:
        return f"| {result.scan} | {slices} | {result.n_findings} | | | | |"
    return (
        f"| {result.scan} | {slices} | {result.n_findings} | {result.n_hit} of {result.n_lesions} "
        f"| {result.n_false} | {result.dice_of_hits:.3f} | {result.dice:.3f} |"
    )
