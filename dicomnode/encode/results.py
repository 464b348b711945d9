"""All objects of one result, made and then checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from dicomnode.encode.context import Result, ResultContext
from dicomnode.encode.contours import encode_contours
from dicomnode.encode.parts import parts_of, parts_without_overlap
from dicomnode.encode.pdf import encode_pdf
from dicomnode.encode.pictures import encode_pictures
from dicomnode.encode.report import encode_reports
from dicomnode.encode.rtstruct import encode_rtstruct
from dicomnode.encode.seg import encode_seg
from dicomnode.encode.uids import sop_instance_uid
from dicomnode.encode.verify import verify_form, verify_results
from dicomnode.encode.volumetric import encode_volumetric
from dicomnode.errors import TransientError
from dicomnode.forms import DEFAULT_KINDS, KINDS, ResultKind
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement

__all__ = ["Result", "encode_results"]

MAY_PASS = (TransientError, OSError, MemoryError)
"""What may not happen again: no reason to leave out a form for ever."""


def not_without(kind: ResultKind, error: Exception) -> NoReturn:
    """Rather no result than one without this form."""
    raise error


def encode_results(
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    kinds: frozenset[ResultKind] = DEFAULT_KINDS,
    leave_out: Callable[[ResultKind, Exception], None] = not_without,
) -> tuple[Result, ...]:
    """The segmentation (first) and its reports, then the other `kinds` as far as this result has them.

    A segmentation of very many frames comes in several objects, a label map of overlapping labels in one
    for each label.
    Without a lesion there is the report that none was seen, and the page or document that says so.
    The same arguments give the same bytes. Raises PermanentError when the source cannot carry a
    result, ResultRejected when an object contradicts its source. `leave_out` is told of a further form that
    cannot be made or contradicts its source: unless it raises, the others are returned without that one.
    """
    segs = tuple(encode_seg(lesion_map, measurements, context, part=part) for part in parts_of(lesion_map))
    reports = encode_reports(segs, lesion_map, measurements, context)
    names = {sop_instance_uid(context, kind): kind for kind in KINDS}
    results = [
        *(Result("seg", made, page) for page, made in enumerate(segs, start=1)),
        *(Result(names[str(made.SOPInstanceUID)], made) for made in reports),
    ]
    verify_results(results, lesion_map, measurements, context)
    for form in FORMS:
        if form not in kinds:
            continue
        try:
            made = tuple(_form(form, lesion_map, measurements, context, kinds))
            verify_form(made, lesion_map, measurements, context)
            results += made
        except MAY_PASS:
            raise
        except Exception as error:
            leave_out(form, error)
    return tuple(results)


FORMS: tuple[ResultKind, ...] = ("labelmap", "contours", "pictures", "pdf", "rtstruct")
"""What destinations get that cannot show segmentations or reports."""


def _form(
    kind: ResultKind,
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    kinds: frozenset[ResultKind],
) -> Iterator[Result]:
    """The objects of one of `FORMS`, as far as this result can have it."""
    placed = bool(lesion_map.lesions) and context.source.volume.has_geometry
    if kind == "labelmap" and placed:
        label_maps = tuple(
            encode_seg(lesion_map, measurements, context, "labelmap", part)
            for part in parts_without_overlap(lesion_map)
        )
        yield from (Result("labelmap", made, page) for page, made in enumerate(label_maps, start=1))
        if "sr_labelmap_volumes" in kinds:
            report = encode_volumetric(label_maps, lesion_map, measurements, context, "sr_labelmap_volumes")
            yield Result("sr_labelmap_volumes", report)
    elif kind == "contours" and lesion_map.lesions:
        yield Result("contours", encode_contours(lesion_map, measurements, context))
    elif kind == "pictures":
        pages = encode_pictures(lesion_map, measurements, context)
        yield from (Result("pictures", made, page) for page, made in enumerate(pages, start=1))
    elif kind == "pdf":
        yield Result("pdf", encode_pdf(lesion_map, measurements, context))
    elif kind == "rtstruct" and placed:
        yield Result("rtstruct", encode_rtstruct(lesion_map, context))
