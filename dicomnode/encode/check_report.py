"""Checks what holds for every report: header items, references, coordinates and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from dicomnode.encode.concepts import (
    ANY_PROCEDURE,
    COMMENT,
    DEVICE_OBSERVER_UID,
    IMAGING_MEASUREMENTS,
    LESION,
    MEASUREMENT_GROUP,
    NOT_SEEN,
    PROCEDURE_REPORTED,
    PROCEDURES,
    QUALITATIVE_EVALUATIONS,
    REPORT_TITLE,
    SOURCE_SERIES,
    UNITS,
)
from dicomnode.encode.content import child, children, code_in, key, name_of, walk
from dicomnode.encode.context import ResultContext
from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.sources import reference
from dicomnode.encode.uids import device_uid
from dicomnode.errors import ResultRejected
from dicomnode.study import text

KNOWN_UNITS = {key(unit) for unit in UNITS.values()} | {("{-1:1}", "UCUM")}
"""Units of measurements, and that of the direction cosines in the image library."""
KNOWN_PROCEDURES = {key(code) for code in (*PROCEDURES.values(), ANY_PROCEDURE)}


@dataclass(frozen=True)
class Referable:
    """What a report may refer to: images with their frames, and the segments of our own SEG."""

    sop_classes: dict[str, str]
    frames: frozenset[tuple[str, int | None]]
    segments: dict[str, frozenset[int]]
    rows: int
    columns: int


def referable(context: ResultContext, segs: Sequence[Dataset]) -> Referable:
    """The source images and `segs`."""
    images = [reference(frame) for frame in context.source.frames]
    classes = {image.sop_instance_uid: image.sop_class_uid for image in images}
    segments: dict[str, frozenset[int]] = {}
    for seg in segs:
        classes[str(seg.SOPInstanceUID)] = str(seg.SOPClassUID)
        segments[str(seg.SOPInstanceUID)] = frozenset(int(s.SegmentNumber) for s in seg.SegmentSequence)
    frames = frozenset((image.sop_instance_uid, image.frame_number) for image in images)
    _, rows, columns = context.source.volume.shape
    return Referable(classes, frames, segments, rows, columns)


def check_report(report: Dataset, where: str, allowed: Referable, context: ResultContext) -> None:
    """Raise ResultRejected when `report` lacks what every report has, or refers to something foreign."""
    _check_head(report, where, context)
    referenced = set()
    for item in walk(report):
        value_type = text(item, "ValueType")
        if value_type == "IMAGE":
            referenced.add(_check_image(item, where, allowed))
        elif value_type == "SCOORD":
            _check_coordinates(item, where, allowed)
        elif value_type == "NUM":
            _check_unit(item, where)
        elif name_of(item) == key(SOURCE_SERIES) and text(item, "UID") != (
            context.source.series.series_instance_uid
        ):
            raise ResultRejected(f"{where}: foreign source series {text(item, 'UID')}")
    _check_evidence(report, where, referenced, allowed, context)


def measurement_groups(report: Dataset) -> list[Dataset]:
    """The measurement groups of a report."""
    found = child(report, IMAGING_MEASUREMENTS)
    return [] if found is None else children(found, MEASUREMENT_GROUP)


def check_not_seen(report: Dataset, where: str, context: ResultContext) -> None:
    """Raise ResultRejected unless the report says that nothing was found, and nothing else.

    Of lesions it says so only where the model looks for them.
    """
    if measurement_groups(report):
        raise ResultRejected(f"{where}: measurements of lesions that were not seen")
    qualitative = child(report, QUALITATIVE_EVALUATIONS)
    lesion = None if qualitative is None else child(qualitative, LESION)
    if not context.card.looks_for_lesions:
        if lesion is not None:
            raise ResultRejected(f"{where}: speaks of lesions, for which the model does not look")
    elif lesion is None or code_in(lesion, "ConceptCodeSequence") != key(NOT_SEEN):
        raise ResultRejected(f"{where}: does not say that no lesion was seen")


def _check_head(report: Dataset, where: str, context: ResultContext) -> None:
    if name_of(report) != key(REPORT_TITLE) or text(
        report.ContentTemplateSequence[0], "TemplateIdentifier"
    ) != ("1500"):
        raise ResultRejected(f"{where}: not a TID 1500 imaging measurement report")
    observer = child(report, DEVICE_OBSERVER_UID)
    if observer is None or text(observer, "UID") != device_uid(context.model_digest):
        raise ResultRejected(f"{where}: the device observer is missing or not this model")
    procedure = child(report, PROCEDURE_REPORTED)
    if procedure is None or code_in(procedure, "ConceptCodeSequence") not in KNOWN_PROCEDURES:
        raise ResultRejected(f"{where}: procedure reported is missing or not from the list")
    qualitative = child(report, QUALITATIVE_EVALUATIONS)
    comments = [] if qualitative is None else [text(c, "TextValue") for c in children(qualitative, COMMENT)]
    if not any(words.startswith(RESEARCH_ONLY) for words in comments):
        raise ResultRejected(f"{where}: does not say {RESEARCH_ONLY!r}")
    if text(report, "VerificationFlag") != "UNVERIFIED" or text(report, "PreliminaryFlag") != "PRELIMINARY":
        raise ResultRejected(f"{where}: must be preliminary and unverified")


def _check_image(item: Dataset, where: str, allowed: Referable) -> str:
    image = item.ReferencedSOPSequence[0]
    uid = str(image.ReferencedSOPInstanceUID)
    if allowed.sop_classes.get(uid) != str(image.ReferencedSOPClassUID):
        raise ResultRejected(f"{where}: refers to foreign instance {uid}")
    if uid in allowed.segments:
        segment = int(image.ReferencedSegmentNumber)
        if segment not in allowed.segments[uid]:
            raise ResultRejected(f"{where}: refers to segment {segment}, which the SEG does not have")
    elif text(image, "ReferencedFrameNumber"):
        frame = int(image.ReferencedFrameNumber)
        if (uid, frame) not in allowed.frames:
            raise ResultRejected(f"{where}: refers to frame {frame}, which is not in the volume")
    return uid


def _check_coordinates(item: Dataset, where: str, allowed: Referable) -> None:
    points = np.array([float(value) for value in item.GraphicData])
    if len(points) < 4 or len(points) % 2:
        raise ResultRejected(f"{where}: {text(item, 'GraphicType')} of {len(points)} numbers")
    points = points.reshape(-1, 2)
    if (points < 0).any() or (points > (allowed.columns, allowed.rows)).any():
        raise ResultRejected(
            f"{where}: coordinates {points.min(axis=0)} to {points.max(axis=0)} leave the image "
            f"of {allowed.columns} columns and {allowed.rows} rows"
        )
    images = [i for i in children(item) if text(i, "ValueType") == "IMAGE"]
    if len(images) != 1 or text(images[0], "RelationshipType") != "SELECTED FROM":
        raise ResultRejected(f"{where}: coordinates are not selected from exactly one image")


def _check_unit(item: Dataset, where: str) -> None:
    unit = code_in(item.MeasuredValueSequence[0], "MeasurementUnitsCodeSequence")
    if unit not in KNOWN_UNITS:
        raise ResultRejected(f"{where}: unit {unit[0]!r} of {name_of(item)[0]} is not one we use")


def _check_evidence(
    report: Dataset, where: str, referenced: set[str], allowed: Referable, context: ResultContext
) -> None:
    listed = set()
    for study in report.CurrentRequestedProcedureEvidenceSequence:
        if str(study.StudyInstanceUID) != context.source.series.study_instance_uid:
            raise ResultRejected(f"{where}: evidence from foreign study {study.StudyInstanceUID}")
        for series in study.ReferencedSeriesSequence:
            listed |= {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence}
    if listed - set(allowed.sop_classes):
        raise ResultRejected(f"{where}: foreign evidence {sorted(listed - set(allowed.sop_classes))[:3]}")
    if referenced - listed:
        raise ResultRejected(f"{where}: {sorted(referenced - listed)[:3]} are not listed as evidence")
