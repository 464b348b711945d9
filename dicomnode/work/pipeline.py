"""The whole path of one series, from its files to SEG and reports. Safe to run again after a crash."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import structlog

from dicomnode.encode.context import ResultContext
from dicomnode.encode.results import Result, encode_results
from dicomnode.forms import DEFAULT_KINDS, ResultKind
from dicomnode.read.room import Allocate
from dicomnode.read.volumes import read_volume
from dicomnode.records.audit import Stage
from dicomnode.study import Series, SourceVolume
from inference.bundle import ModelCard
from inference.fast_mode import Precision
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement, Quantity, measure_lesions, total_burden
from inference.volume import Volume

StageRecorder = Callable[[Stage], AbstractContextManager[None]]
Segmenter = Callable[[Volume], LesionMap]

log = structlog.get_logger()


@dataclass(frozen=True)
class Assignment:
    """One series, the model that looks at it, and what the results shall say of the run."""

    series: Series
    segmenter: Segmenter
    card: ModelCard
    model_digest: str
    instance_number: int
    created_at: datetime
    notes: tuple[str, ...] = ()
    kinds: frozenset[ResultKind] = DEFAULT_KINDS
    empty: Allocate = np.empty
    """Makes the memory of the volume."""
    compiled: bool = False
    """Whether the network of the segmenter runs compiled."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that one run produced."""

    source: SourceVolume
    lesion_map: LesionMap
    measurements: tuple[LesionMeasurement, ...]
    results: tuple[Result, ...]
    precision: Precision
    compiled: bool
    left_out: dict[ResultKind, str] = field(default_factory=dict)
    """Forms that could not be made, with the kind of error."""


def process_series(assignment: Assignment, stage: StageRecorder) -> Findings:
    """Read, segment, measure, encode and check one series. The order of the steps is only here.

    Raises UnreadableSeries, inference.errors.InferenceError or ResultRejected.
    """
    with stage(Stage.READ):
        source = read_volume(assignment.series, assignment.empty)
    with stage(Stage.SEGMENT):
        lesion_map = assignment.segmenter(source.volume)
    with stage(Stage.MEASURE):
        measurements = measure_lesions(lesion_map, source.volume)
    with stage(Stage.ENCODE):
        context = ResultContext(
            source=source,
            card=assignment.card,
            model_digest=assignment.model_digest,
            instance_number=assignment.instance_number,
            created_at=assignment.created_at,
            notes=(*assignment.notes, *source.notes),
        )
        left_out: dict[ResultKind, str] = {}

        def leave_out(kind: ResultKind, error: Exception) -> None:
            log.error("form_left_out", kind=kind, exc_info=error)
            left_out[kind] = type(error).__name__

        results = encode_results(lesion_map, measurements, context, assignment.kinds, leave_out)
    precision = assignment.card.precision
    return Findings(source, lesion_map, measurements, results, precision, assignment.compiled, left_out)


def summarise(findings: Findings) -> dict[str, Any]:
    """What the audit says of a run."""
    burden = total_burden(findings.lesion_map, findings.measurements, findings.source.volume)
    return {
        "slice_count": findings.source.volume.shape[0],
        "lesion_count": len(findings.measurements),
        "total_volume_mm3": round(burden.value, 1) if isinstance(burden, Quantity) else None,
        "precision": findings.precision.value,
        "compiled": findings.compiled,
        "left_out": dict(findings.left_out),
    }
