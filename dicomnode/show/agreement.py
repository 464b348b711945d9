"""How a candidate agrees with the live model, in words and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dicomnode.models.agreement import Agreement, VolumeAgreement
from dicomnode.records.model_tables import ComparisonRow

WORST_COLUMNS = (
    "study_instance_uid",
    "series_instance_uid",
    "live_job_id",
    "candidate_job_id",
    "dice",
    "live_voxels",
    "candidate_voxels",
    "common_voxels",
    "live_volume_mm3",
    "candidate_volume_mm3",
    "found_by_both",
    "only_live",
    "only_candidate",
)


def agreement_sentences(found: Agreement) -> list[str]:
    """The figures, one sentence each."""
    sentences = [counted(found)]
    if found.dice is not None:
        dice = found.dice
        sentences.append(
            f"Dice over {dice.count}: median {dice.median:.3f}, quartiles {dice.lower_quartile:.3f} to "
            f"{dice.upper_quartile:.3f}, lowest {dice.minimum:.3f}, mean {dice.mean:.3f}"
        )
    sentences.append(
        f"Lesions: {found.found_by_both} found by both, {found.only_live} by the live model alone, "
        f"{found.only_candidate} by the candidate alone"
    )
    if found.volumes is not None:
        sentences.append(volumes_told(found.volumes))
    return sentences


def counted(found: Agreement) -> str:
    """How many series the figures stand on."""
    return (
        f"{found.compared} series seen by both, {found.failed} of them not comparable; "
        f"in {found.neither} neither saw anything"
    )


def volumes_told(volumes: VolumeAgreement) -> str:
    """Bias and limits of agreement."""
    limits = "too few for limits of agreement"
    if volumes.lower_ml is not None and volumes.upper_ml is not None:
        limits = f"95 % of differences between {volumes.lower_ml:+.2f} and {volumes.upper_ml:+.2f} ml"
    return (
        f"Volumes over {len(volumes.pairs)}: the candidate's differ by {volumes.bias_ml:+.2f} ml in the "
        f"mean; {limits}"
    )


def agreement_record(found: Agreement) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "compared": found.compared,
        "failed": found.failed,
        "neither": found.neither,
        "found_by_both": found.found_by_both,
        "only_live": found.only_live,
        "only_candidate": found.only_candidate,
        "dice": asdict(found.dice) if found.dice else None,
        "volumes": asdict(found.volumes) if found.volumes else None,
        "worst": [_worst(row) for row in found.worst],
    }


def _worst(row: ComparisonRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in WORST_COLUMNS}
