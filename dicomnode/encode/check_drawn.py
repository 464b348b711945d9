"""Checks outlines, pictures and documents, read back, against the lesion map and the source images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydicom import Dataset

from dicomnode.encode.context import ResultContext
from dicomnode.encode.coordinates import PIXEL_CENTRE, Points, filled
from dicomnode.encode.rtstruct import polygons_mm
from dicomnode.encode.sources import frame_position_mm, reference
from dicomnode.encode.uids import tracking_uid
from dicomnode.errors import ResultRejected
from inference.labelmap import LesionMap

OFF_PLANE_MM = 0.01
PDF_BEGINS = b"%PDF-"


def check_contours(state: Dataset, lesion_map: LesionMap, context: ResultContext) -> None:
    """Raise ResultRejected unless the drawn outlines enclose exactly the lesions, image by image."""
    number_of = {tracking_uid(context, lesion.number): lesion.number for lesion in lesion_map.lesions}
    slice_of = _slices(context)
    drawn: dict[tuple[int, int], list[Points]] = {}
    for annotation in state.GraphicAnnotationSequence:
        image = annotation.ReferencedImageSequence[0]
        index = slice_of.get(_named(image))
        if index is None:
            raise ResultRejected(f"contours: drawn on a foreign image {image.ReferencedSOPInstanceUID}")
        for graphic in annotation.GraphicObjectSequence:
            number = number_of.get(str(graphic.TrackingUID))
            if number is None:
                raise ResultRejected("contours: an outline belongs to no lesion")
            points = np.array(graphic.GraphicData, dtype=np.float64).reshape(-1, 2)
            drawn.setdefault((number, index), []).append(points)
    _compare("contours", drawn, lesion_map)


def check_structures(made: Dataset, lesion_map: LesionMap, context: ResultContext) -> None:
    """Raise ResultRejected unless the structures enclose exactly the lesions, in patient space."""
    slice_of = _slices(context)
    drawn: dict[tuple[int, int], list[Points]] = {}
    for (number, image_uid, frame_number), contours in polygons_mm(made).items():
        index = slice_of.get((image_uid, frame_number))
        if index is None:
            raise ResultRejected(f"rtstruct: a contour lies on a foreign image {image_uid}")
        drawn[number, index] = [_in_image(contour, index, context) for contour in contours]
    _compare("rtstruct", drawn, lesion_map)


def check_pages(pages: Sequence[Dataset], lesion_map: LesionMap, context: ResultContext) -> None:
    """Raise ResultRejected unless there is a page of numbers and a picture of an own image per lesion."""
    if len(pages) != 1 + len(lesion_map.lesions):
        raise ResultRejected(f"pictures: {len(pages)} pages for {len(lesion_map.lesions)} lesions")
    for page in pages[1:]:
        _check_known("pictures", page.SourceImageSequence, context)


def check_document(document: Dataset, context: ResultContext) -> None:
    """Raise ResultRejected unless the document is a PDF on images of the source."""
    if not document.EncapsulatedDocument.startswith(PDF_BEGINS):
        raise ResultRejected("pdf: the document is no PDF")
    _check_known("pdf", document.SourceInstanceSequence, context)


def _slices(context: ResultContext) -> dict[tuple[str, int | None], int]:
    images = map(reference, context.source.frames)
    return {(image.sop_instance_uid, image.frame_number): index for index, image in enumerate(images)}


def _named(item: Dataset) -> tuple[str, int | None]:
    frame = item.get("ReferencedFrameNumber")
    return str(item.ReferencedSOPInstanceUID), None if frame is None else int(frame)


def _check_known(where: str, items: Iterable[Dataset], context: ResultContext) -> None:
    known = _slices(context)
    for item in items:
        if _named(item) not in known:
            raise ResultRejected(f"{where}: refers to a foreign image {item.ReferencedSOPInstanceUID}")


def _in_image(contour: Points, index: int, context: ResultContext) -> Points:
    """LPS mm (n, 3) as (column, row) image coordinates; raises ResultRejected off the plane of the slice."""
    steps = context.source.volume.affine[:3, 1:3]
    offsets = contour - np.asarray(frame_position_mm(context.source.frames[index]))
    row_column, *_ = np.linalg.lstsq(steps, offsets.T, rcond=None)
    if np.abs(steps @ row_column - offsets.T).max() > OFF_PLANE_MM:
        raise ResultRejected(f"rtstruct: a contour lies beside slice {index}, whose image it names")
    points: Points = row_column.T[:, ::-1] + PIXEL_CENTRE
    return points


def _compare(where: str, drawn: dict[tuple[int, int], list[Points]], lesion_map: LesionMap) -> None:
    _, rows, columns = lesion_map.shape
    for lesion in lesion_map.lesions:
        for index in range(lesion.box[0].start, lesion.box[0].stop):
            expected = lesion_map.plane(lesion.number, index)
            found = filled(drawn.pop((lesion.number, index), []), (rows, columns))
            if (found != expected).any():
                raise ResultRejected(
                    f"{where}: the outline of lesion {lesion.number} in slice {index} encloses "
                    f"{int(found.sum())} pixels, the lesion has {int(expected.sum())} there"
                )
    if drawn:
        raise ResultRejected(f"{where}: outlines where no lesion is: {sorted(drawn)[:3]}")
