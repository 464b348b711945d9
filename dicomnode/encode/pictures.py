"""A result as colour pictures (Secondary Capture, PS3.3 A.8.1): a page of numbers, then the key images.

For viewers that show nothing but images. Every result has a series of its own, so that nobody leafs from a
picture into one that it supersedes. No name or number of the patient is drawn into them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from dicomnode.encode.context import ResultContext
from dicomnode.encode.document import statements
from dicomnode.encode.dress import copy_laterality, finish, identity, plain_text
from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.overlay import PICTURE_PIXELS, draw_lesion
from dicomnode.encode.sources import reference
from dicomnode.encode.uids import sop_instance_uid
from dicomnode.encode.words import TABLE_HEAD, looked_for, numbers_of, remarks_on_volumes, summary
from dicomnode.study import SourceFrame, text
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement

FONT_PIXELS, LINE_PIXELS, MARGIN_PIXELS = 15, 21, 16
COLUMN_PIXELS = (26, 166, 86, 86, 100, 94, 80)
LINE_CHARACTERS = 96


def encode_pictures(
    lesion_map: LesionMap, measurements: Sequence[LesionMeasurement], context: ResultContext
) -> tuple[Dataset, ...]:
    """The page of numbers, which also says when nothing was seen, and one picture per lesion."""
    frames = context.source.frames
    pages: list[tuple[Image.Image, list[SourceFrame]]] = [(draw_page(measurements, context), [])]
    for measurement in measurements:
        frame = frames[measurement.key_slice]
        picture = draw_lesion(context.source.volume, lesion_map, measurement, frame)
        pages.append((picture, [frame]))
    return tuple(
        _capture(np.asarray(picture.convert("RGB")), shown, number, context)
        for number, (picture, shown) in enumerate(pages, start=1)
    )


def page_lines(measurements: Sequence[LesionMeasurement], context: ResultContext) -> list[str]:
    """What is said below the table, in sentences."""
    if not measurements:
        none_seen = ["No lesion seen."] if context.card.looks_for_lesions else []
        return [" ".join([*none_seen, *looked_for(context.card)]), *statements(context)]
    remarks = remarks_on_volumes(measurements, context.source.volume)
    return [summary(measurements, context.card), *remarks, *statements(context)]


def table_rows(measurements: Sequence[LesionMeasurement], context: ResultContext) -> list[tuple[str, ...]]:
    """The table of all lesions with its head."""
    frames = context.source.frames
    return [TABLE_HEAD, *(numbers_of(m, frames[m.key_slice]) for m in measurements)]


def draw_page(measurements: Sequence[LesionMeasurement], context: ResultContext) -> Image.Image:
    """The table of all lesions and what is to be known about it, white on black."""
    rows = table_rows(measurements, context) if measurements else []
    sentences = page_lines(measurements, context)
    lines = [part for words in sentences for part in textwrap.wrap(words, LINE_CHARACTERS)]
    height = 2 * MARGIN_PIXELS + LINE_PIXELS * (len(rows) + len(lines) + 3)
    picture = Image.new("RGB", (PICTURE_PIXELS, max(height, PICTURE_PIXELS // 2)))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_PIXELS)
    y = MARGIN_PIXELS

    def write(words: str, x: int = MARGIN_PIXELS) -> None:
        pen.text((x, y), words, fill=(255, 255, 255), font=font)

    write(f"{context.card.title} {context.card.version}, result {context.instance_number}")
    y += 2 * LINE_PIXELS
    for row in rows:
        x = MARGIN_PIXELS
        for words, width in zip(row, (*COLUMN_PIXELS, 0), strict=True):
            write(words, x)
            x += width
        y += LINE_PIXELS
    y += LINE_PIXELS
    for line in lines:
        write(line)
        y += LINE_PIXELS
    return picture


def _capture(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    shown: Sequence[SourceFrame],
    page: int,
    context: ResultContext,
) -> Dataset:
    context_uids = {
        "sop_instance_uid": sop_instance_uid(context, "pictures", page),
        "instance_number": page,
    }
    capture: Dataset = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=context.source.series.study_instance_uid,
        **(identity(context, "pictures") | context_uids),
    )
    finish(capture, context)
    copy_laterality(capture, context)
    capture.ConversionType = "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.PatientOrientation = None
    capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
    capture.DerivationDescription = f"Drawn by {plain_text(context.card.title)}. {RESEARCH_ONLY}"
    burned_in = text(context.source.series.header, "BurnedInAnnotation")
    if burned_in or not shown:
        capture.BurnedInAnnotation = burned_in if shown else "NO"
    if shown:
        capture.SourceImageSequence = DicomSequence([referred(frame) for frame in shown])
    return capture


def referred(frame: SourceFrame) -> Dataset:
    """A reference item (PS3.3 table 10-3) to the image, or the frame of it, behind a slice."""
    image = reference(frame)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    if image.frame_number is not None:
        item.ReferencedFrameNumber = image.frame_number
    return item
