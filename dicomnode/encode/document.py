"""The frame of every report: TID 1500 in a Comprehensive 3D SR, preliminary and unverified.

The algorithm has one name everywhere (IHE AI Results): device observer (TID 1004), algorithm
identification (TID 4019), SEG and Contributing Equipment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    DeviceObserverIdentifyingAttributes,
    ImageLibrary,
    LanguageOfContentItemAndDescendants,
    ObserverContext,
    TextContentItem,
)
from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes

from dicomnode.encode.concepts import (
    COMMENT,
    ENGLISH,
    IMAGING_MEASUREMENTS,
    PROCEDURE_REPORTED,
    QUALITATIVE_EVALUATIONS,
    REPORT_TITLE,
    procedure_reported,
)
from dicomnode.encode.context import ResultContext
from dicomnode.encode.dress import finish, identity, plain_text
from dicomnode.encode.equipment import MANUFACTURER, RESEARCH_ONLY, serial_number, software_version
from dicomnode.encode.sources import patient_stand_in, shallow_copy
from dicomnode.encode.uids import device_uid
from dicomnode.forms import ResultKind
from dicomnode.study import text

LIBRARY_NEEDS = ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient")
CONTAINS, HAS_CONCEPT_MOD = "CONTAINS", "HAS CONCEPT MOD"


def build_report(
    kind: ResultKind,
    context: ResultContext,
    groups: Sequence[Any],
    evaluations: Sequence[Any],
    images: Sequence[Dataset],
    evidence: Sequence[Dataset],
) -> Dataset:
    """One report. `groups` are measurement groups, `evaluations` items of Qualitative Evaluations,
    `images` the headers for the image library, `evidence` all instances that the report refers to.

    highdicom copies the content and searches it for references, each in a time that grows to seconds with
    hundreds of lesions. It gets the frame only; the rest is filled in afterwards, and the references are
    checked in what is read back (`check_report.py`).
    """
    root = ContainerContentItem(name=REPORT_TITLE, template_id="1500")
    root.ContentSequence = DicomSequence(_head(context))
    library = _library(images)
    measurements = ContainerContentItem(name=IMAGING_MEASUREMENTS, relationship_type=CONTAINS)
    qualitative = ContainerContentItem(name=QUALITATIVE_EVALUATIONS, relationship_type=CONTAINS)
    qualitative.ContentSequence = DicomSequence([*evaluations, *map(comment, statements(context))])
    root.ContentSequence.extend([*library, measurements, qualitative])
    fill = [(item, item.pop("ContentSequence")) for item in library]
    if groups:
        fill.append((measurements, _content([item for group in groups for item in group])))
    report: Dataset = Comprehensive3DSR(
        evidence=[patient_stand_in(evidence[0]), *evidence[1:]],
        content=root,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **identity(context, kind),
    )
    for item, content in fill:
        item[content.tag] = content
    finish(report, context)
    return report


def _content(items: list[Dataset]) -> DataElement:
    return DataElement("ContentSequence", "SQ", DicomSequence(items))


def _head(context: ResultContext) -> list[Any]:
    """Language, device observer and procedure reported."""
    header = context.source.series.header
    procedure = procedure_reported(text(header, "Modality"), text(header, "BodyPartExamined"))
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device_uid(context.model_digest),
            name=plain_text(context.card.title),
            manufacturer_name=MANUFACTURER,
            model_name=plain_text(context.card.title),
            serial_number=serial_number(context.model_digest),
        ),
    )
    reported = CodeContentItem(name=PROCEDURE_REPORTED, value=procedure, relationship_type=HAS_CONCEPT_MOD)
    return [
        *LanguageOfContentItemAndDescendants(ENGLISH),
        *observer,
        reported,
    ]


def _library(images: Sequence[Dataset]) -> Sequence[Any]:
    """TID 1600, which is optional: left out for SOP classes whose modality highdicom does not know."""
    try:
        library: Sequence[Any] = ImageLibrary([_library_entry(image) for image in images]) if images else []
    except ValueError:
        return []
    return library


def _library_entry(image: Dataset) -> Dataset:
    """The header for the image library.

    highdicom takes the geometry of every CT, MR or PET from the top level of the header. Where it is
    not there (multi-frame, no slice thickness), another modality makes it leave geometry out.
    """
    entry = shallow_copy(image)
    if not all(text(entry, keyword) for keyword in LIBRARY_NEEDS):
        entry.Modality = "OT"
    if "SpacingBetweenSlices" in entry and not text(entry, "SpacingBetweenSlices"):
        del entry.SpacingBetweenSlices
    return entry


def comment(words: str) -> Any:
    """A sentence for the reader."""
    return TextContentItem(name=COMMENT, value=plain_text(words), relationship_type=CONTAINS)


def algorithm(context: ResultContext) -> Any:
    """TID 4019: the model that made a measurement group."""
    return AlgorithmIdentification(
        name=plain_text(context.card.title),
        version=context.card.version,
        manufacturer=MANUFACTURER,
        parameters=[f"sha256={context.model_digest}"],
    )


def _replacement(context: ResultContext) -> list[str]:
    """Objects of an earlier result that have no successor (a part too many, lesions that are none any more)
    stay in the archive: here is how to know them.
    """
    number = context.instance_number
    if number == 1:
        return []
    return [
        f"Result {number} of this model on this series replaces all earlier ones: segmentations and reports "
        f"of theirs (instance number below {number}) are out of date, also where no later one exists."
    ]


def statements(context: ResultContext) -> list[str]:
    """What every report, picture and PDF says about itself."""
    card = context.card
    return [
        f"{RESEARCH_ONLY}. Not for diagnosis; made by an algorithm and not checked by a person.",
        f"Model: {card.title} ({card.name}) version {card.version}, SHA-256 {context.model_digest}; "
        f"{MANUFACTURER} version {software_version()}.",
        *_replacement(context),
        *context.notes,
    ]
