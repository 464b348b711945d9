"""Lesions as a radiotherapy structure set (PS3.3 A.19.3), for planning systems, where a route asks for it.

Contours run halfway between pixel centres inside and outside; holes are joined by a channel. Only images
with a place in the patient can have one. It is in Explicit VR, unless a contour is too long for that.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import PIXEL_CENTRE, Points, outlines, without_holes
from dicomnode.encode.dress import finish, new_object, plain_text
from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.pictures import referred
from dicomnode.encode.seg import lesion_name
from dicomnode.encode.sources import check_encodable, frame_position_mm
from dicomnode.errors import PermanentError
from dicomnode.study import text
from inference.labelmap import Lesion, LesionMap

MOST_EXPLICIT_BYTES = 0xFFFE
"""Of a decimal string in Explicit VR, whose length has 16 bits (PS3.5 7.1.2)."""
DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""SOP class by which structure sets name their study; retired, and still required in this place."""


def encode_rtstruct(lesion_map: LesionMap, context: ResultContext) -> Dataset:
    """One region per lesion. Raises PermanentError for images without a place in the patient."""
    source = context.source
    check_encodable(source)
    if not source.volume.has_geometry:
        raise PermanentError("images without a place in the patient cannot have a structure set")
    made = new_object(context, "rtstruct", RTStructureSetStorage, "RTSTRUCT")
    made.OperatorsName = made.PositionReferenceIndicator = None
    made.FrameOfReferenceUID = text(source.series.header, "FrameOfReferenceUID")
    made.StructureSetLabel = "LESIONS"
    made.StructureSetDescription = plain_text(f"{context.card.title}. {RESEARCH_ONLY}")
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = DicomSequence([_frame_of_reference(context)])
    made.StructureSetROISequence = DicomSequence([_region(lesion, context) for lesion in lesion_map.lesions])
    made.ROIContourSequence = DicomSequence(
        [_contours(lesion, lesion_map, context) for lesion in lesion_map.lesions]
    )
    made.RTROIObservationsSequence = DicomSequence([_observation(lesion) for lesion in lesion_map.lesions])
    if _longest_value(made) > MOST_EXPLICIT_BYTES:
        made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    finish(made, context)
    made.StructureSetDate, made.StructureSetTime = made.ContentDate, made.ContentTime
    for keyword in ("ContentDate", "ContentTime"):
        delattr(made, keyword)
    return made


def _longest_value(made: Dataset) -> int:
    """Bytes of the longest contour: its numbers, which are ASCII, and what stands between them."""
    contours = (contour for region in made.ROIContourSequence for contour in region.ContourSequence)
    return max((sum(len(str(value)) + 1 for value in contour.ContourData) for contour in contours), default=0)


def _frame_of_reference(context: ResultContext) -> Dataset:
    """Frame of reference, study, series and all images of it."""
    source = context.source
    series = Dataset()
    series.SeriesInstanceUID = source.series.series_instance_uid
    images = {frame.instance.sop_instance_uid: frame for frame in source.frames}
    series.ContourImageSequence = DicomSequence([_whole_image(referred(frame)) for frame in images.values()])
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = source.series.study_instance_uid
    study.RTReferencedSeriesSequence = DicomSequence([series])
    item = Dataset()
    item.FrameOfReferenceUID = text(source.series.header, "FrameOfReferenceUID")
    item.RTReferencedStudySequence = DicomSequence([study])
    return item


def _whole_image(image: Dataset) -> Dataset:
    if "ReferencedFrameNumber" in image:
        del image.ReferencedFrameNumber
    return image


def _region(lesion: Lesion, context: ResultContext) -> Dataset:
    item = Dataset()
    item.ROINumber = lesion.number
    item.ReferencedFrameOfReferenceUID = text(context.source.series.header, "FrameOfReferenceUID")
    item.ROIName = plain_text(f"{lesion_name(lesion.number)}: {lesion.label.name}")[:64]
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    return item


def _observation(lesion: Lesion) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = lesion.number
    item.RTROIInterpretedType, item.ROIInterpreter = "", None
    return item


def _contours(lesion: Lesion, lesion_map: LesionMap, context: ResultContext) -> Dataset:
    contours = []
    for index in range(lesion.box[0].start, lesion.box[0].stop):
        plane = lesion_map.plane(lesion.number, index)
        if not plane.any():
            continue
        for outline in without_holes(outlines(plane)):
            contour = Dataset()
            contour.ContourImageSequence = DicomSequence([referred(context.source.frames[index])])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            points = to_patient_mm(outline[:-1], index, context)
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
            contours.append(contour)
    item = Dataset()
    item.ReferencedROINumber = lesion.number
    item.ROIDisplayColor = list(lesion.label.rgb)
    item.ContourSequence = DicomSequence(contours)
    return item


def to_patient_mm(points: Points, index: int, context: ResultContext) -> Points:
    """(column, row) image coordinates on slice `index` as LPS millimetres (n, 3)."""
    affine = context.source.volume.affine
    origin = np.asarray(frame_position_mm(context.source.frames[index]), dtype=np.float64)
    columns, rows = (points - PIXEL_CENTRE).T
    placed: Points = origin + np.outer(rows, affine[:3, 1]) + np.outer(columns, affine[:3, 2])
    return placed


def polygons_mm(made: Dataset) -> dict[tuple[int, str, int | None], list[Points]]:
    """Contours (n, 3) in LPS mm by region number, image and frame, as a structure set has them."""
    found: dict[tuple[int, str, int | None], list[Points]] = defaultdict(list)
    for region in made.ROIContourSequence:
        for contour in region.ContourSequence:
            image = contour.ContourImageSequence[0]
            frame = image.get("ReferencedFrameNumber")
            key = (
                int(region.ReferencedROINumber),
                str(image.ReferencedSOPInstanceUID),
                None if frame is None else int(frame),
            )
            found[key].append(np.array([float(v) for v in contour.ContourData]).reshape(-1, 3))
    return dict(found)
