"""The frame of every report: TID 1500 in a Comprehensive 3D SR, preliminary and unverified.

The algorithm has one name everywhere (IHE AI Results): device observer (TID 1004), algorithm
identification (TID 4019), SEG and Contributing Equipment.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from dicomnode.encode.concepts import (
    COMMENT,
    DEVICE,
    DEVICE_OBSERVER_MANUFACTURER,
    DEVICE_OBSERVER_MODEL,
    DEVICE_OBSERVER_NAME,
    DEVICE_OBSERVER_SERIAL_NUMBER,
    DEVICE_OBSERVER_UID,
    ENGLISH,
    IMAGING_MEASUREMENTS,
    LANGUAGE,
    OBSERVER_TYPE,
    PROCEDURE_REPORTED,
    QUALITATIVE_EVALUATIONS,
    REPORT_TITLE,
    procedure_reported,
)
from dicomnode.encode.context import ResultContext
from dicomnode.encode.dress import finish, identity, plain_text
from dicomnode.encode.equipment import MANUFACTURER, RESEARCH_ONLY, serial_number, software_version
from dicomnode.encode.library import image_library
from dicomnode.encode.sources import patient_stand_in
from dicomnode.encode.tree import code_item, container, text_item, uid_item
from dicomnode.encode.uids import device_uid
from dicomnode.forms import ResultKind
from dicomnode.study import text


def build_report(
    kind: ResultKind,
    context: ResultContext,
    groups: Sequence[Dataset],
    evaluations: Sequence[Dataset],
    images: Sequence[Dataset],
    evidence: Sequence[Dataset],
) -> Dataset:
    """One report. `groups` are measurement groups, `evaluations` items of Qualitative Evaluations,
    `images` the headers for the image library, `evidence` all instances that the report refers to.

    highdicom copies the content and searches it for references, each in a time that grows to seconds with
    hundreds of lesions. It gets an empty root, which is filled in afterwards; the references are checked in
    what is read back (`check_report.py`).
    """
    root = container(REPORT_TITLE, relationship=None, template="1500")
    root.ContentSequence = DicomSequence()
    report: Dataset = Comprehensive3DSR(
        evidence=[patient_stand_in(evidence[0]), *evidence[1:]],
        content=root,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **identity(context, kind),
    )
    said = [*evaluations, *map(comment, statements(context))]
    report.ContentSequence = DicomSequence(
        [
            *_head(context),
            *image_library(images),
            container(IMAGING_MEASUREMENTS, groups),
            container(QUALITATIVE_EVALUATIONS, said),
        ]
    )
    finish(report, context)
    return report


def _head(context: ResultContext) -> list[Dataset]:
    """Language (TID 1204), device observer (TID 1004) and procedure reported."""
    header, title = context.source.series.header, plain_text(context.card.title)
    procedure = procedure_reported(text(header, "Modality"), text(header, "BodyPartExamined"))
    observer = (
        (DEVICE_OBSERVER_NAME, title),
        (DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER),
        (DEVICE_OBSERVER_MODEL, title),
        (DEVICE_OBSERVER_SERIAL_NUMBER, serial_number(context.model_digest)),
    )
    return [
        code_item(LANGUAGE, ENGLISH, "HAS CONCEPT MOD"),
        code_item(OBSERVER_TYPE, DEVICE, "HAS OBS CONTEXT"),
        uid_item(DEVICE_OBSERVER_UID, device_uid(context.model_digest), "HAS OBS CONTEXT"),
        *(text_item(name, words, "HAS OBS CONTEXT") for name, words in observer),
        code_item(PROCEDURE_REPORTED, procedure, "HAS CONCEPT MOD"),
    ]


def comment(words: str) -> Dataset:
    """A sentence for the reader."""
    return text_item(COMMENT, plain_text(words), "CONTAINS")


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
