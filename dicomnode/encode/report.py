"""Measurements as TID 1500 reports: a pair for lesions, one for none."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from dicomnode.encode.bidirectional import encode_bidirectional
from dicomnode.encode.concepts import LESION, NOT_SEEN
from dicomnode.encode.context import ResultContext
from dicomnode.encode.document import build_report, comment
from dicomnode.encode.sources import check_encodable
from dicomnode.encode.tree import code_item
from dicomnode.encode.volumetric import encode_volumetric
from dicomnode.encode.words import looked_for
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement


def encode_reports(
    segs: tuple[Dataset, ...],
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
) -> tuple[Dataset, ...]:
    """The editable diameters and the volumes of all lesions, or the one report that none was seen.

    The diameters are left out when no lesion has one (each a single pixel wide). `segs` are needed
    when there are lesions.
    """
    check_encodable(context.source)
    if not lesion_map.lesions:
        return (encode_not_seen(context),)
    if not segs:
        raise ValueError("a report on lesions refers to their segmentation")
    volumes = encode_volumetric(segs, lesion_map, measurements, context)
    diameters = encode_bidirectional(measurements, context)
    return (volumes,) if diameters is None else (diameters, volumes)


def encode_not_seen(context: ResultContext) -> Dataset:
    """The report that nothing was found in the images, all of which it names as evidence.

    Only a model that looks for lesions says that none was seen.
    """
    not_seen = [code_item(LESION, NOT_SEEN, "CONTAINS")] if context.card.looks_for_lesions else []
    images = {f.instance.sop_instance_uid: f.instance.header for f in context.source.frames}
    return build_report(
        "sr_not_seen",
        context,
        groups=[],
        evaluations=[*not_seen, *map(comment, looked_for(context.card))],
        images=[],
        evidence=list(images.values()),
    )
