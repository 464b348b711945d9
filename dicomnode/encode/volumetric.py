"""The report of volumes and intensities: per lesion a TID 1410 contour and a TID 1411 group.

The contour on the key slice is there because OHIF merges groups by tracking UID and cannot show a lesion
without coordinates; it carries no numbers but the area, where there is no volume. The TID 1411 group
refers to the lesion's segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from highdicom.sr import (
    FindingSite,
    ImageRegion,
    Measurement,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    SourceImageForRegion,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset

from dicomnode.encode.concepts import UNITS, Concept, repertoire, rounded
from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import outline
from dicomnode.encode.document import algorithm, build_report, comment
from dicomnode.encode.parts import remarks_on_parts, segments_by_lesion
from dicomnode.encode.seg import coded, lesion_name
from dicomnode.encode.sources import reference
from dicomnode.encode.uids import tracking_uid
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
        summary(measurements),
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


def _contour(measurement: LesionMeasurement, lesion_map: LesionMap, context: ResultContext) -> Any:
    image = reference(context.source.frames[measurement.key_slice])
    region = ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=outline(lesion_map.plane(measurement.number, measurement.key_slice)),
        source_image=SourceImageForRegion(
            referenced_sop_class_uid=image.sop_class_uid,
            referenced_sop_instance_uid=image.sop_instance_uid,
            referenced_frame_numbers=image.frame_numbers,
        ),
    )
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region,
        measurements=_numbers(measurement, repertoire(context.source.volume).of_contour),
        **_finding(measurement, context),
    )
    group[0].ContentSequence.append(comment(label_of(measurement)))
    return group


def _volume(measurement: LesionMeasurement, seg: Dataset, number: int, context: ResultContext) -> Any:
    segment = ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=number,
        source_series=SourceSeriesForSegmentation(context.source.series.series_instance_uid),
    )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=segment,
        measurements=_numbers(measurement, repertoire(context.source.volume).of_segment),
        **_finding(measurement, context),
    )


def _finding(measurement: LesionMeasurement, context: ResultContext) -> dict[str, Any]:
    label, number = measurement.label, measurement.number
    return {
        "tracking_identifier": TrackingIdentifier(
            uid=tracking_uid(context, number), identifier=lesion_name(number)
        ),
        "finding_type": coded(label.type),
        "finding_sites": [FindingSite(coded(label.site))] if label.site else None,
        "algorithm_id": algorithm(context),
    }


def _numbers(measurement: LesionMeasurement, concepts: Sequence[Concept]) -> list[Any]:
    """What is known of the lesion; an absent value is left out, its reason stands in the remarks."""
    found = []
    for concept in concepts:
        quantity = concept.value(measurement)
        if isinstance(quantity, Quantity):
            found.append(
                Measurement(
                    name=concept.code,
                    value=rounded(quantity.value),
                    unit=UNITS[quantity.unit],
                    method=concept.method,
                    derivation=concept.derivation,
                )
            )
    return found
