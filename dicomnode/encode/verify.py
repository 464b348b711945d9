"""The last check before anything leaves the node.

Seven validators, tried with 40 planted defects, see structure and templates but not a SEG shifted by
40 mm, a foreign study, a segment that is not there or a coordinate outside the image. So every object
is read back from its bytes and compared with the source images and the lesion map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from pydicom import dcmread

from dicomnode.encode.check_drawn import check_contours, check_document, check_pages, check_structures
from dicomnode.encode.check_numbers import check_axes, check_volumes
from dicomnode.encode.check_report import check_not_seen, check_report, referable
from dicomnode.encode.check_seg import check_segs
from dicomnode.encode.context import Result, ResultContext
from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.parts import parts_of, parts_without_overlap
from dicomnode.encode.recognise import is_own_result
from dicomnode.encode.uids import device_uid, series_instance_uid, sop_instance_uid
from dicomnode.errors import ResultRejected
from dicomnode.forms import ResultKind
from dicomnode.study import text
from inference.labelmap import LesionMap
from inference.measure import Axis, LesionMeasurement

SAME_AS_SOURCE = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID",
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "SpecificCharacterSet",
)  # fmt: skip

ALWAYS = ("seg", "sr_measurements", "sr_volumes", "sr_not_seen")
MODALITIES = {
    "seg": "SEG", "labelmap": "SEG", "contours": "PR", "pictures": "OT", "pdf": "DOC", "rtstruct": "RTSTRUCT",
}  # fmt: skip

EQUIPMENT = "ContributingEquipmentSequence"

MALFORMED = (AttributeError, KeyError, IndexError, TypeError, ValueError, StopIteration)


def verify_results(
    results: Sequence[Result],
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
) -> None:
    """Raise ResultRejected, saying what and where, when an object contradicts its source.

    The message holds UIDs, numbers and codes, but no patient data.
    """
    _check_kinds([r.kind for r in results if r.kind in ALWAYS and r.page == 1], measurements)
    verify_form(results, lesion_map, measurements, context)


def verify_form(
    results: Sequence[Result],
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
) -> None:
    """The same for the objects of one form, which has no segmentation that it does not bring itself."""
    read_back = [replace(r, dataset=dcmread(BytesIO(r.content))) for r in results]
    try:
        for result in read_back:
            _check_identity(result, context)
        _check_all(read_back, lesion_map, measurements, context)
        _check_drawn(read_back, lesion_map, context)
    except MALFORMED as error:
        raise ResultRejected(f"a result cannot be read back: {type(error).__name__}") from error


def _check_kinds(kinds: list[ResultKind], measurements: Sequence[LesionMeasurement]) -> None:
    expected: list[ResultKind] = ["sr_not_seen"]
    if measurements:
        has_axes = any(isinstance(m.long_axis, Axis) for m in measurements)
        expected = ["seg", "sr_measurements", "sr_volumes"] if has_axes else ["seg", "sr_volumes"]
    if kinds != expected:
        raise ResultRejected(f"the result consists of {kinds}, expected {expected}")


def _check_all(
    results: Sequence[Result],
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
) -> None:
    label_maps = tuple(result.dataset for result in results if result.kind == "labelmap")
    if label_maps:
        check_segs(label_maps, lesion_map, context, parts_without_overlap(lesion_map))
    segs = tuple(result.dataset for result in results if result.kind == "seg")
    if segs:
        check_segs(segs, lesion_map, context, parts_of(lesion_map))
    on_segs = referable(context, segs)
    for kind, made in ((result.kind, result.dataset) for result in results):
        segments, allowed = segs, on_segs
        if kind == "sr_labelmap_volumes":
            segments, allowed = label_maps, referable(context, label_maps)
        if kind.startswith("sr_"):
            check_report(made, kind, allowed, context)
        if kind == "sr_not_seen":
            check_not_seen(made, kind, context)
        elif kind == "sr_measurements":
            check_axes(made, kind, measurements, context)
        elif kind in ("sr_volumes", "sr_labelmap_volumes"):
            check_volumes(made, kind, lesion_map, measurements, context, segments)


def _check_drawn(results: Sequence[Result], lesion_map: LesionMap, context: ResultContext) -> None:
    """Outlines, pictures and documents for readers that show no segmentations."""
    for result in results:
        if result.kind == "contours":
            check_contours(result.dataset, lesion_map, context)
        elif result.kind == "rtstruct":
            check_structures(result.dataset, lesion_map, context)
        elif result.kind == "pdf":
            check_document(result.dataset, context)
    pages = [result.dataset for result in results if result.kind == "pictures"]
    if pages:
        check_pages(pages, lesion_map, context)


def _check_identity(result: Result, context: ResultContext) -> None:
    """Patient and study of the source; UIDs, description and maker of this result."""
    made, kind = result.dataset, result.kind
    header = context.source.frames[0].instance.header
    for keyword in SAME_AS_SOURCE:
        if text(made, keyword) != text(header, keyword):
            raise ResultRejected(f"{kind}: {keyword} is not that of the source images")
    for keyword, expected in (
        ("SOPInstanceUID", sop_instance_uid(context, kind, result.page)),
        ("SeriesInstanceUID", series_instance_uid(context, kind, result.page)),
        ("InstanceNumber", str(result.page if kind == "pictures" else context.instance_number)),
        ("Modality", MODALITIES.get(kind, "SR")),
    ):
        if text(made, keyword) != expected:
            raise ResultRejected(f"{kind}: {keyword} is {text(made, keyword)}, expected {expected}")
    if RESEARCH_ONLY not in text(made, "SeriesDescription"):
        raise ResultRejected(f"{kind}: SeriesDescription does not say {RESEARCH_ONLY!r}")
    models = [(text(i, "DeviceUID"), text(i, "SoftwareVersions")) for i in made.get(EQUIPMENT) or ()]
    if (device_uid(context.model_digest), context.card.version) not in models:
        raise ResultRejected(f"{kind}: {EQUIPMENT} does not name the model and version that made it")
    if not is_own_result(made):
        raise ResultRejected(f"{kind}: would not be recognised as our own when it comes back")
