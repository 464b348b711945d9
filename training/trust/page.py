"""The README of a trust report: what was measured, and how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.readme import figure
from training.report.document import Block, Heading, Picture, Table, Text
from training.statistics import Interval
from training.trust.calibration import Calibration
from training.trust.explained import Explained
from training.trust.summary import MEASURES, Trust, VolumeCover
from training.trust.uncertainty import FAILED_BELOW

RELIABILITY = "reliability.png"
RISK = "risk_coverage.png"
SCATTER = "error_by_uncertainty.png"
VOLUMES = "volumes.png"
EXPLANATION = "explanation_{}.png"

BAND = (
    "Only voxels near truth and findings count (within 8 voxels of the model's grid, for a 2-D model "
    "within the slice; at most 20,000 of a case). Background far from both is left out: it would make "
    "every model look well calibrated. So this says nothing of probabilities far away from any lesion. A "
    "probability is that of any label."
)
USED_BEFORE = {
    "train": "These are the cases that the model was trained on: the numbers flatter it.",
    "val": "Temperature and thresholds were chosen on these very cases: the numbers flatter the model.",
}
MEMBERS = (
    "The members are {n} predictions: of the image and of its mirror images along {axes}, each turned back. "
    "Where they agree the model is consistent, which does not make it right."
)
TWO_MEMBERS = "Two members give a standard deviation that is itself hardly known."
COVER = (
    "The volume is that of everything found. Its uncertainty is the standard deviation (SD) of the "
    "members' volumes. If the error were normal and the SD right, the true volume would lie within 2 SD of "
    "the found one in 95 % of the cases. What all members overlook or add together, the SD cannot know."
)
MAPS = (
    "Each picture shows the slice with the largest truth, and explains the label with most truth there, "
    "in the region that was found (in the truth where nothing was found in the window). Seg-Grad-CAM weighs "
    "the output of the network's coarsest convolution; it is scaled to its own maximum. The occlusion map "
    "says how far the mean probability in that region drops when the place is hidden by the image's mean; "
    "negative values mean that it rises. A map shows what moves the network. It does not show that the "
    "network is right."
)


def blocks(
    content: dict[str, Any], folder: Path, trust: Trust, explained: Sequence[Explained]
) -> list[Block]:
    """The document; `content` is that of `trust.json`."""
    return [
        *_head(content),
        *_calibration(content, folder, trust),
        *_foretold(content, folder, trust),
        *_volume(folder, trust),
        *_explanations(folder, explained),
        *_cases(trust),
    ]


def _head(content: dict[str, Any]) -> Iterator[Block]:
    model, data = content["model"], content["data"]
    yield Heading(1, f"How far {model['name']} {model['version']} can be trusted")
    which = "all" if data["n_cases"] == data["n_in_split"] else f"{data['n_cases']} (drawn with a fixed seed)"
    of = f"{which} of the {data['n_in_split']} cases of the split `{data['split']}`"
    groups = len({case["group"] for case in content["cases"]})
    warning = USED_BEFORE.get(data["split"], "")
    yield Text(f"{model['title']}, measured on {of}, from {groups} groups. {warning}".strip())
    yield Text(
        f"Model digest `{model['digest']}`, data digest `{data['digest']}`. All numbers are in `trust.json`."
    )


def _calibration(content: dict[str, Any], folder: Path, trust: Trust) -> Iterator[Block]:
    yield Heading(2, "Does a probability mean what it says?")
    yield Text(BAND)
    if trust.before is None or trust.after is None:
        yield Text("No voxel lies near truth or findings in these cases, so nothing was measured.")
        return
    temperature = content["model"]["temperature"]
    if temperature == 1.0:
        yield Text("The bundle's temperature is 1: it was not calibrated, so before and after are the same.")
    rows = (("before: temperature 1", trust.before), (f"after: temperature {temperature:g}", trust.after))
    columns = ("", "ECE", "largest gap (MCE)", "Brier", "NLL", "voxels")
    yield Table("All are 0 at their best", columns, tuple(_reliability(*row) for row in rows))
    yield Picture(folder / RELIABILITY, "Reliability curves before and after temperature scaling")


def _reliability(name: str, curve: Calibration) -> tuple[str, ...]:
    values = (curve.ece, curve.mce, curve.brier, curve.nll)
    return (name, *(figure(value) for value in values), f"{curve.n:,}")


def _foretold(content: dict[str, Any], folder: Path, trust: Trust) -> Iterator[Block]:
    axes, n = content["members"]["mirrored"], content["members"]["n"]
    yield Heading(2, "Does the model know when it fails?")
    yield Text(MEMBERS.format(n=n, axes=", ".join(axes)) + (f" {TWO_MEMBERS}" if n == 2 else ""))
    rows = []
    for key, found in trust.foretold.items():
        shares = (found.spearman, found.auroc, found.aurc, found.aurc_of_chance, found.aurc_at_best)
        failed = f"{found.n_failed} of {found.n}"
        rows.append((MEASURES[key], *(figure(value) for value in shares), failed))
    columns = (
        "uncertainty", "Spearman with 1 - Dice", "AUROC for failing", "area under risk-coverage",
        "by chance", "at best", "failing",
    )  # fmt: skip
    yield Table(f"Failing is a Dice below {FAILED_BELOW:g}", columns, tuple(rows))
    yield Text(
        "A Spearman of 0 and an AUROC of 0.5 are chance; a dash means that there is nothing to tell apart. "
        "The first line is the measure that was chosen beforehand; it calls a case sure when all members "
        "find nothing. The entropy of the found region exists only where something is found. The "
        "risk-coverage curve is the mean of 1 - Dice over the surest cases; lower is better."
    )
    yield Picture(folder / RISK, "Mean error among the surest cases, by the share that is kept")
    yield Picture(folder / SCATTER, "1 - Dice of every case against its uncertainty")


def _volume(folder: Path, trust: Trust) -> Iterator[Block]:
    cover = trust.cover
    yield Heading(2, "Does the uncertainty of the volume cover the true volume?")
    yield Text(COVER)
    if cover.n:
        yield Table("Over the cases with a lesion", ("", "value"), tuple(_cover_rows(cover)))
    else:
        yield Text("No case has a lesion, so there is nothing to cover.")
    yield Picture(folder / VOLUMES, "Found volume against true volume, with bars of two standard deviations")


def _cover_rows(cover: VolumeCover) -> Iterator[tuple[str, str]]:
    share, interval = cover.share or 0.0, _interval(cover.share_interval)
    yield "true volume within 2 SD", f"{cover.n_covered} of {cover.n}: {100 * share:.0f} %{interval}"
    yield "cases whose members all found the same volume (SD 0)", str(cover.n_without_sd)
    yield f"median error of the volume, {cover.unit}", _number(cover.median_error)
    yield f"median SD, {cover.unit}", _number(cover.median_sd)
    yield "median of error / SD (0.67 when the SD is right)", _number(cover.errors_per_sd)


def _explanations(folder: Path, explained: Sequence[Explained]) -> Iterator[Block]:
    yield Heading(2, "Where does the network look?")
    if not explained:
        yield Text("No case was explained.")
        return
    yield Text(MAPS)
    for number, one in enumerate(explained, start=1):
        trust = one.choice.trust
        yield Heading(3, f"{trust.case}: Dice {trust.dice:.3f} ({one.choice.words})")
        region = "what was found" if one.region == "found" else "the truth, for nothing was found here"
        size = " x ".join(map(str, one.patch))
        yield Text(
            f"{one.label}, slice {one.slice_number + 1} of the model's grid; explained is {region}. Layer "
            f"`{one.layer}`; hidden patches of {size} voxels; the largest drop is "
            f"{float(one.occlusion.max()):.3f}."
        )
        yield Picture(
            folder / EXPLANATION.format(number), f"Image, Grad-CAM and occlusion map of {trust.case}"
        )


def _cases(trust: Trust) -> Iterator[Block]:
    unit = trust.cover.unit
    columns = (
        "case", "Dice", f"true volume, {unit}", f"found, {unit}", f"SD, {unit}", "within 2 SD",
        "disagreement", "entropy found", "entropy per voxel",
    )  # fmt: skip
    rows = tuple(
        (
            case.case,
            figure(case.dice),
            *(_number(value) for value in (case.volume_truth, case.volume_found, case.volume_sd)),
            "yes" if case.covered else "no",
            *(figure(value) for value in (case.disagreement, case.entropy_found, case.entropy_spread)),
        )
        for case in sorted(trust.cases, key=lambda case: (case.dice, case.case))
    )
    yield Heading(2, "Every case")
    yield Table("From the worst to the best Dice", columns, rows)


def _number(value: float | None) -> str:
    """Three significant digits and more, without an exponent; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f" (95 %: {100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)"
