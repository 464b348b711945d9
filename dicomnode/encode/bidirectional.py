"""The report that viewers turn into editable measurements: one TID 1501 group per lesion.

Long and short axis each have their own SCOORD on the slice of the long axis, under a tracking
identifier that OHIF and other cornerstone viewers hydrate. A lesion with a long axis only becomes a
length; a lesion without any diameter has no group here (a group without coordinates breaks OHIF).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicomnode.encode.concepts import LONG_AXIS, SHORT_AXIS, SOURCE
from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import to_graphic_data
from dicomnode.encode.document import build_report, comment
from dicomnode.encode.groups import measured, measurement_group
from dicomnode.encode.seg import lesion_name
from dicomnode.encode.sources import reference
from dicomnode.encode.tree import polyline_item
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
    remarks = (summary(measurements, context.card), *remarks_on_axes(measurements))
    return build_report(
        "sr_measurements",
        context,
        groups=[_group(m, context) for m in measured],
        evaluations=[comment(words) for words in remarks],
        images=list(images.values()),
        evidence=list(images.values()),
    )


def _group(measurement: LesionMeasurement, context: ResultContext) -> Dataset:
    tool = LENGTH if isinstance(measurement.short_axis, Absent) else BIDIRECTIONAL
    axes = ((LONG_AXIS, measurement.long_axis), (SHORT_AXIS, measurement.short_axis))
    numbers = [_number(name, axis, context) for name, axis in axes if isinstance(axis, Axis)]
    content = [*numbers, comment(label_of(measurement))]
    identifier = f"{tool}:{lesion_name(measurement.number)}"
    return measurement_group("1501", identifier, measurement, content, context)


def _number(name: Code, axis: Axis, context: ResultContext) -> Dataset:
    image = reference(context.source.frames[axis.slice_index])
    points = to_graphic_data(np.array([axis.start, axis.end]))
    return measured(name, axis.length, [polyline_item(SOURCE, points, image, "INFERRED FROM")])
