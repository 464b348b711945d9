"""All objects of one result, made and then checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dicomnode.encode.context import Result, ResultContext
from dicomnode.encode.contours import encode_contours
from dicomnode.encode.parts import parts_of, parts_without_overlap
from dicomnode.encode.pdf import encode_pdf
from dicomnode.encode.pictures import encode_pictures
from dicomnode.encode.report import encode_reports
from dicomnode.encode.rtstruct import encode_rtstruct
from dicomnode.encode.seg import encode_seg
from dicomnode.encode.uids import sop_instance_uid
from dicomnode.encode.verify import verify_results
from dicomnode.encode.volumetric import encode_volumetric
from dicomnode.forms import DEFAULT_KINDS, KINDS, ResultKind
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement

__all__ = ["Result", "encode_results"]


def encode_results(
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    kinds: frozenset[ResultKind] = DEFAULT_KINDS,
) -> tuple[Result, ...]:
    """The segmentation (first) and its reports, then the other `kinds` as far as this result has them.

    A segmentation of very many frames comes in several objects, a label map of overlapping labels in one
    for each label.
    Without a lesion there is the report that none was seen, and the page or document that says so.
    The same arguments give the same bytes. Raises PermanentError when the source cannot carry a
    result, ResultRejected when an object contradicts its source.
    """
    segs = tuple(encode_seg(lesion_map, measurements, context, part=part) for part in parts_of(lesion_map))
    reports = encode_reports(segs, lesion_map, measurements, context)
    names = {sop_instance_uid(context, kind): kind for kind in KINDS}
    results = (
        *(Result("seg", made, page) for page, made in enumerate(segs, start=1)),
        *(Result(names[str(made.SOPInstanceUID)], made) for made in reports),
        *_for_other_readers(lesion_map, measurements, context, kinds),
    )
    verify_results(results, lesion_map, measurements, context)
    return results


def _for_other_readers(
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    kinds: frozenset[ResultKind],
) -> Iterator[Result]:
    """What destinations get that cannot show segmentations or reports."""
    if "labelmap" in kinds and lesion_map.lesions and context.source.volume.has_geometry:
        label_maps = tuple(
            encode_seg(lesion_map, measurements, context, "labelmap", part)
            for part in parts_without_overlap(lesion_map)
        )
        yield from (Result("labelmap", made, page) for page, made in enumerate(label_maps, start=1))
        if "sr_labelmap_volumes" in kinds:
            report = encode_volumetric(label_maps, lesion_map, measurements, context, "sr_labelmap_volumes")
            yield Result("sr_labelmap_volumes", report)
    if "contours" in kinds and lesion_map.lesions:
        yield Result("contours", encode_contours(lesion_map, measurements, context))
    if "pictures" in kinds:
        pages = encode_pictures(lesion_map, measurements, context)
        yield from (Result("pictures", made, page) for page, made in enumerate(pages, start=1))
    if "pdf" in kinds:
        yield Result("pdf", encode_pdf(lesion_map, measurements, context))
    if "rtstruct" in kinds and lesion_map.lesions and context.source.volume.has_geometry:
        yield Result("rtstruct", encode_rtstruct(lesion_map, context))
