"""All objects of one result, made and then checked."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.encode.context import Result, ResultContext
from dicomnode.encode.report import encode_reports
from dicomnode.encode.seg import encode_seg
from dicomnode.encode.uids import sop_instance_uid
from dicomnode.encode.verify import verify_results
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
    """The segmentation (first) and its reports, or the one report that no lesion was seen.

    The same arguments give the same bytes. Raises PermanentError when the source cannot carry a
    result, ResultRejected when an object contradicts its source.
    """
    seg = encode_seg(lesion_map, measurements, context) if lesion_map.lesions else None
    reports = encode_reports(seg, lesion_map, measurements, context)
    names = {sop_instance_uid(context, kind): kind for kind in KINDS}
    objects = reports if seg is None else (seg, *reports)
    results = tuple(Result(names[str(made.SOPInstanceUID)], made) for made in objects)
    verify_results(results, lesion_map, measurements, context)
    return results
