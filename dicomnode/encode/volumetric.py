"""The report of volumes and intensities: per lesion a TID 1410 contour and a TID 1411 group.

The contour on the key slice is there because OHIF merges groups by tracking UID and cannot show a lesion
without coordinates; it carries no numbers but the area, where there is no volume. The TID 1411 group
refers to the lesion's segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydicom import Dataset

from dicomnode.encode.concepts import IMAGE_REGION, REFERENCED_SEGMENT, SOURCE_SERIES, Concept, repertoire
from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import outline
from dicomnode.encode.document import build_report, comment
from dicomnode.encode.groups import measured, measurement_group
from dicomnode.encode.parts import remarks_on_parts, segments_by_lesion
from dicomnode.encode.seg import lesion_name
from dicomnode.encode.sources import ImageReference, reference
from dicomnode.encode.tree import image_item, polyline_item, uid_item
from dicomnode.encode.words import label_of, remarks_on_volumes, summary
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement, Quantity


def encode_volumetric(
    segs: tuple[Dataset, ...],
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    kind: Literal["sr_volumes", "sr_labelmap_volumes"] = "sr_volumes",
) -> Dataset:
    """SR-B of the pair, on the segments of `segs`."""
    source = context.source
    segments = segments_by_lesion(segs, context)
    frames = [source.frames[index] for index in sorted({m.key_slice for m in measurements})]
    images = {frame.instance.sop_instance_uid: frame.instance.header for frame in frames}
    remarks = (
        summary(measurements, context.card),
        *remarks_on_volumes(measurements, source.volume),
        *remarks_on_parts(segs),
    )
    return build_report(
        kind,
        context,
        groups=[
            group
            for m in measurements
            for group in (_contour(m, lesion_map, context), _volume(m, *segments[m.number], context))
        ],
        evaluations=[comment(words) for words in remarks],
        images=list(images.values()),
        evidence=[*images.values(), *segs],
    )


def _contour(measurement: LesionMeasurement, lesion_map: LesionMap, context: ResultContext) -> Dataset:
    image = reference(context.source.frames[measurement.key_slice])
    points = outline(lesion_map.plane(measurement.number, measurement.key_slice))
    content = [
        *_numbers(measurement, repertoire(context.source.volume).of_contour),
        polyline_item(IMAGE_REGION, points, image, "CONTAINS"),
        comment(label_of(measurement)),
    ]
    return measurement_group("1410", lesion_name(measurement.number), measurement, content, context)


def _volume(measurement: LesionMeasurement, seg: Dataset, number: int, context: ResultContext) -> Dataset:
    named = ImageReference(str(seg.SOPClassUID), str(seg.SOPInstanceUID), None)
    content = [
        *_numbers(measurement, repertoire(context.source.volume).of_segment),
        image_item(REFERENCED_SEGMENT, named, "CONTAINS", segment=number),
        uid_item(SOURCE_SERIES, context.source.series.series_instance_uid, "CONTAINS"),
    ]
    return measurement_group("1411", lesion_name(measurement.number), measurement, content, context)


def _numbers(measurement: LesionMeasurement, concepts: Sequence[Concept]) -> Iterable[Dataset]:
    """What is known of the lesion; an absent value is left out, its reason stands in the remarks."""
    for concept in concepts:
        quantity = concept.value(measurement)
        if isinstance(quantity, Quantity):
            yield measured(concept.code, quantity, method=concept.method, derivation=concept.derivation)
