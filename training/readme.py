"""The README of a bundle: what the model is for, how it came about, how good it is, its limits."""

from __future__ import annotations

from typing import Any

from training.config import Experiment
from training.evaluate import ScanResult

METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "surface Dice at {tolerance:g} {unit}",
    "hausdorff": "Hausdorff distance, {unit}",
    "hd95": "95th percentile of it (HD95), {unit}",
    "volume_error": "relative volume error",
}

TEMPLATE = """# {title}

{description}

**Research use only.** Version {version}, state `{state}`.

## How it was trained

```
{command}
dicomtrain export RUN_DIR BUNDLE_DIR --experiment EXPERIMENT.toml
```

| | |
|---|---|
{training}

The best weights on the validation split were kept, rounded to half precision, and measured as they
lie here.

## Operating point

{operating_point}

## Test: {n_cases} cases of {n_groups} groups that training never saw

`dicomtrain evaluate BUNDLE_DIR EXPERIMENT.toml`

{test}

## Other data

{others}

## Whole scans

{scans}

## Limits

{limits}

## Data

{attribution}"""


def render(experiment: Experiment, training: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The README as Markdown. Every figure is one of the model card's."""
    target, test = experiment.target, metrics["test"]
    others = metrics["other_data"]
    return TEMPLATE.format(
        title=target.title,
        description=target.description,
        version=target.version,
        state=target.state,
        command=training["command"],
        training="\n".join(f"| {key} | {value} |" for key, value in training.items() if key != "command"),
        operating_point=operating_point(experiment, metrics.get("calibration")),
        n_cases=test["n_cases"],
        n_groups=test["n_groups"],
        test=evaluation_section(test),
        others="\n\n".join(f"### {name}\n\n{evaluation_section(found)}" for name, found in others.items())
        or "None was measured.",
        scans=scan_section(metrics["whole_scans"]),
        limits="\n".join(f"- {limit}" for limit in target.limits),
        attribution=experiment.data.attribution.strip() + "\n",
    )


def operating_point(experiment: Experiment, calibration: dict[str, Any] | None) -> str:
    """The decision limits, and what calibration did."""
    how = experiment.postprocessing
    limits = (
        f"Probability threshold {how.probability_threshold:g}, peak probability {how.peak_probability:g}, "
        f"smallest lesion {how.smallest_lesion_mm3:g} mm3 or {how.smallest_lesion_share:g} of an image "
        "without millimetres."
    )
    if calibration is None:
        return f"{limits} They were set by hand."
    return (
        f"{limits} Thresholds and temperature ({calibration['temperature']:.2f}) were chosen on the "
        "validation cases alone. Expected calibration error there, near truth and findings: "
        f"{calibration['ece_before']:.3f} before, {calibration['ece_after']:.3f} after."
    )


def evaluation_section(figures: dict[str, Any]) -> str:
    """Tables of one evaluation: every label, and the mean over labels where there are several."""
    parts = []
    names = list(figures["labels"])
    for name in names:
        head = f"**{name}**\n\n" if len(names) > 1 else ""
        parts.append(f"{head}{metric_table(figures['labels'][name], figures)}\n\n{counts(figures, name)}")
    if len(names) > 1:
        parts.append(f"**Mean over the labels**\n\n{metric_table(figures['mean'], figures)}")
    strata = figures.get("strata") or {}
    if strata:
        parts.append(stratum_table(strata))
    return "\n\n".join(parts)


def metric_table(summaries: dict[str, Any], figures: dict[str, Any]) -> str:
    """Mean and median with their 95 % intervals (bootstrap over groups)."""
    head = "| metric | mean | median | cases without a value |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| {name.format(tolerance=figures['tolerance'], unit=figures['distance_unit'])} "
        f"| {with_interval(summaries[key], 'mean')} | {with_interval(summaries[key], 'median')} "
        f"| {summaries[key]['n_undefined']} |"
        for key, name in METRICS.items()
    )


def with_interval(summary: dict[str, Any], part: str) -> str:
    """A mean or median with its interval."""
    interval = summary[f"{part}_interval"]
    if interval is None:
        return figure(summary[part])
    return f"{figure(summary[part])} ({interval[0]:.3f} to {interval[1]:.3f})"


def counts(figures: dict[str, Any], name: str) -> str:
    """What was hit and what was false, in a sentence or two."""
    totals = figures["labels"][name]
    sentences = []
    if totals["n_lesions"] is not None:
        sentences.append(
            f"{totals['n_hit']} of {totals['n_lesions']} lesions were touched by a finding; "
            f"{totals['n_false']} findings in {figures['n_cases']} cases touch no lesion."
        )
    if totals["n_empty"]:
        sentences.append(
            f"Something was found in {totals['n_false_alarms']} of {totals['n_empty']} cases that show no "
            "lesion."
        )
    sentences.append(
        "A case where nothing was found has the Dice and IoU 0 and no distance: it is left out of the "
        "distances and counted in the last column. An empty case with nothing found has the Dice 1."
    )
    return " ".join(sentences)


def stratum_table(strata: dict[str, Any]) -> str:
    """Mean Dice per kind of case."""
    rows = (
        f"| {name} | {found['n_cases']} | {with_interval(found['mean']['dice'], 'mean')} |"
        for name, found in strata.items()
    )
    return "| kind of case | cases | Dice, mean |\n|---|---|---|\n" + "\n".join(rows)


def figure(value: float | None) -> str:
    """A value with three decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def scan_section(scans: list[dict[str, Any]]) -> str:
    """Whole scans as a table, or a sentence when none was measured."""
    if not scans:
        return "None was measured."
    head = (
        "Cropped cases say nothing about false findings elsewhere. None of these scans was trained on.\n\n"
        "`dicomtrain scan BUNDLE_DIR NAME_image.nrrd --mask NAME_label.nrrd`\n\n"
        "| scan | slices | findings | lesions hit | false findings | Dice of hits | Dice of everything |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(scan_row(ScanResult(**result)) for result in scans)


def scan_row(result: ScanResult) -> str:
    """One line of the table of whole scans."""
    slices = f"{result.n_slices} of {result.slice_mm:g} mm"
    if result.dice is None or result.dice_of_hits is None:
        return f"| {result.scan} | {slices} | {result.n_findings} | | | | |"
    return (
        f"| {result.scan} | {slices} | {result.n_findings} | {result.n_hit} of {result.n_lesions} "
        f"| {result.n_false} | {result.dice_of_hits:.3f} | {result.dice:.3f} |"
    )
