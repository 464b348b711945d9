"""A result as a PDF in a DICOM object (Encapsulated PDF, PS3.3 A.45.1), for archives that take documents.

The pages name the patient by Patient ID and study, as paper must; the object says so (Burned In Annotation).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from xml.sax.saxutils import escape

from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EncapsulatedPDFStorage
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Image, Paragraph, SimpleDocTemplate, Spacer, Table

from dicomnode.encode.concepts import REPORT_TITLE
from dicomnode.encode.context import ResultContext
from dicomnode.encode.dress import finish, new_object, plain_text
from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.overlay import draw_lesion
from dicomnode.encode.pictures import page_lines, referred, table_rows
from dicomnode.study import text
from inference.labelmap import LesionMap
from inference.measure import LesionMeasurement

PICTURE_WIDTH_MM = 120.0
PICTURE_HEIGHT_MM = 220.0
"""At most: a picture taller than a page would leave no document at all."""
PDF_MEDIA_TYPE = "application/pdf"
ON_PAPER = (
    ("Patient ID", "PatientID"),
    ("Accession number", "AccessionNumber"),
    ("Study date", "StudyDate"),
    ("Study", "StudyInstanceUID"),
)


def encode_pdf(
    lesion_map: LesionMap, measurements: Sequence[LesionMeasurement], context: ResultContext
) -> Dataset:
    """The table, the remarks and one picture per lesion; or that nothing was seen."""
    document = new_object(context, "pdf", EncapsulatedPDFStorage, "DOC")
    document.ConversionType = "WSD"
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = plain_text(f"{context.card.title}. {RESEARCH_ONLY}")
    document.ConceptNameCodeSequence = DicomSequence([CodedConcept(*REPORT_TITLE)])
    frames = context.source.frames
    shown = [frames[m.key_slice] for m in measurements] or [frames[0]]
    document.SourceInstanceSequence = DicomSequence([referred(frame) for frame in shown])
    document.MIMETypeOfEncapsulatedDocument = PDF_MEDIA_TYPE
    content = _pages(lesion_map, measurements, context)
    document.EncapsulatedDocumentLength = len(content)
    document.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    finish(document, context)
    document.AcquisitionDateTime = None
    return document


def _pages(lesion_map: LesionMap, measurements: Sequence[LesionMeasurement], context: ResultContext) -> bytes:
    """The PDF itself; the same result gives the same bytes."""
    buffer = BytesIO()
    template = SimpleDocTemplate(
        buffer, pagesize=A4, title=plain_text(context.card.title), invariant=1, pageCompression=1
    )
    styles = getSampleStyleSheet()
    flow: list[Flowable] = [
        Paragraph(escape(plain_text(f"{context.card.title} {context.card.version}")), styles["Title"]),
        *(Paragraph(escape(plain_text(line)), styles["Normal"]) for line in _identification(context)),
        Spacer(1, 6 * mm),
    ]
    if measurements:
        flow += [_table(measurements, context), Spacer(1, 6 * mm)]
    flow += [Paragraph(escape(line), styles["Normal"]) for line in page_lines(measurements, context)]
    for measurement in measurements:
        flow += [Spacer(1, 6 * mm), _picture(lesion_map, measurement, context)]
    template.build(flow)
    return buffer.getvalue()


def _identification(context: ResultContext) -> list[str]:
    header = context.source.series.header
    lines = [f"{words}: {text(header, keyword)}" for words, keyword in ON_PAPER if text(header, keyword)]
    return [*lines, f"Result {context.instance_number} of {context.local_time:%Y-%m-%d %H:%M}"]


def _table(measurements: Sequence[LesionMeasurement], context: ResultContext) -> Table:
    table = Table(table_rows(measurements, context), repeatRows=1)
    table.setStyle(
        [
            ("FONTSIZE", (0, 0), (-1, -1), 8),
            ("GRID", (0, 0), (-1, -1), 0.25, colors.grey),
            ("BACKGROUND", (0, 0), (-1, 0), colors.whitesmoke),
        ]
    )
    return table


def _picture(lesion_map: LesionMap, measurement: LesionMeasurement, context: ResultContext) -> Image:
    frame = context.source.frames[measurement.key_slice]
    picture = draw_lesion(context.source.volume, lesion_map, measurement, frame)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    scale = min(PICTURE_WIDTH_MM * mm / picture.width, PICTURE_HEIGHT_MM * mm / picture.height)
    return Image(buffer, width=scale * picture.width, height=scale * picture.height)
