"""The report that viewers turn into editable measurements: one TID 1501 group per lesion.

Long and short axis each have their own SCOORD on the slice of the long axis, under a tracking
identifier that OHIF and other cornerstone viewers hydrate. A lesion with a long axis only becomes a
length; a lesion without any diameter has no group here (a group without coordinates breaks OHIF).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom.sr import (
    CoordinatesForMeasurement,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom import Dataset

from dicomnode.encode.concepts import LONG_AXIS, SHORT_AXIS, UNITS, rounded
from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import to_graphic_data
from dicomnode.encode.document import algorithm, build_report, comment
from dicomnode.encode.seg import coded, lesion_name
from dicomnode.encode.sources import reference
from dicomnode.encode.uids import tracking_uid
from dicomnode.encode.words import label_of, remarks_on_axes, summary
from inference.measure import Absent, Axis, LesionMeasurement

BIDIRECTIONAL = "Cornerstone3DTools@^0.1.0:Bidirectional"
LENGTH = "Cornerstone3DTools@^0.1.0:Length"


def encode_bidirectional(measurements: Sequence[LesionMeasurement], context: ResultContext) -> Dataset | None:
    """SR-A of the pair, or None when no lesion has a diameter."""
    measured = [m for m in measurements if isinstance(m.long_axis, Axis)]
    if not measured:
        return None
    frames = context.source.frames
    slices = sorted({m.long_axis.slice_index for m in measured if isinstance(m.long_axis, Axis)})
    images = {frames[i].instance.sop_instance_uid: frames[i].instance.header for i in slices}
    return build_report(
        "sr_measurements",
        context,
        groups=[_group(m, context) for m in measured],
        evaluations=[comment(words) for words in (summary(measurements), *remarks_on_axes(measurements))],
        images=list(images.values()),
        evidence=list(images.values()),
    )


def _group(measurement: LesionMeasurement, context: ResultContext) -> Any:
    label, number = measurement.label, measurement.number
    tool = LENGTH if isinstance(measurement.short_axis, Absent) else BIDIRECTIONAL
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(context, number), identifier=f"{tool}:{lesion_name(number)}"
        ),
        finding_type=coded(label.type),
        finding_sites=[FindingSite(coded(label.site))] if label.site else None,
        algorithm_id=algorithm(context),
        measurements=[
            _measurement(name, axis, context)
            for name, axis in ((LONG_AXIS, measurement.long_axis), (SHORT_AXIS, measurement.short_axis))
            if isinstance(axis, Axis)
        ],
    )
    group[0].ContentSequence.append(comment(label_of(measurement)))
    return group


def _measurement(name: Any, axis: Axis, context: ResultContext) -> Any:
    image = reference(context.source.frames[axis.slice_index])
    coordinates = CoordinatesForMeasurement(
        graphic_type="POLYLINE",
        graphic_data=to_graphic_data(np.array([axis.start, axis.end])),
        source_image=SourceImageForRegion(
            referenced_sop_class_uid=image.sop_class_uid,
            referenced_sop_instance_uid=image.sop_instance_uid,
            referenced_frame_numbers=image.frame_numbers,
        ),
    )
    # highdicom 0.28.2 writes INFERRED FROM here, which TID 300 forbids and DCMTK cannot read.
    coordinates.ContentSequence[0].RelationshipType = "SELECTED FROM"
    return Measurement(
        name=name,
        value=rounded(axis.length.value),
        unit=UNITS[axis.length.unit],
        referenced_coordinates=[coordinates],
    )
