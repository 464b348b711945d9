"""What every object of ours carries besides its content: who, when, by which model, for which patient."""

from __future__ import annotations

import unicodedata
from copy import deepcopy
from typing import Any

from highdicom import ContributingEquipment
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code as SrCode
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.encode.context import ResultContext
from dicomnode.encode.equipment import (
    MANUFACTURER,
    PROCESSING_EQUIPMENT,
    PRODUCT,
    RESEARCH_ONLY,
    serial_number,
    software_version,
)
from dicomnode.encode.sources import MAY_BE_EMPTY
from dicomnode.encode.uids import device_uid, series_instance_uid, sop_instance_uid
from dicomnode.forms import ResultKind
from dicomnode.study import text

COPIED_WHEN_FILLED = ("SpecificCharacterSet", "IssuerOfPatientID", "BodyPartExamined")
"""Copied like patient and study (`MAY_BE_EMPTY`), but these must not be there without a value."""


def plain_text(value: str) -> str:
    """`value` in ASCII, which every Specific Character Set of a source can hold."""
    decomposed = unicodedata.normalize("NFKD", value)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).encode("ascii", "replace").decode()


def identity(context: ResultContext, kind: ResultKind, page: int = 1, part: str = "") -> dict[str, Any]:
    """Arguments by which highdicom names an object, its series and its maker.

    An object in parts has a series for each, whose description says which `part` it is.
    """
    return {
        "series_instance_uid": series_instance_uid(context, kind, page),
        "series_number": context.series_number(kind, page),
        "sop_instance_uid": sop_instance_uid(context, kind, page),
        "instance_number": context.instance_number,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": PRODUCT,
        "software_versions": software_version(),
        "device_serial_number": serial_number(context.model_digest),
        "series_description": plain_text(context.series_description(kind, part)),
        "specific_character_set": None,
        "contributing_equipment": [_algorithm(context)],
    }


def new_object(context: ResultContext, kind: ResultKind, sop_class_uid: UID, modality: str) -> Dataset:
    """What `identity` gives highdicom's objects, for a kind of object that highdicom does not make."""
    names = identity(context, kind)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = sop_class_uid
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = names["sop_instance_uid"]
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.StudyInstanceUID = context.source.series.study_instance_uid
    made.SeriesInstanceUID = names["series_instance_uid"]
    made.SeriesNumber, made.InstanceNumber = names["series_number"], names["instance_number"]
    made.SeriesDescription, made.Modality = names["series_description"], modality
    made.Manufacturer, made.ManufacturerModelName = names["manufacturer"], names["manufacturer_model_name"]
    made.SoftwareVersions, made.DeviceSerialNumber = names["software_versions"], names["device_serial_number"]
    made.ContributingEquipmentSequence = DicomSequence(names["contributing_equipment"])
    return made


def _algorithm(context: ResultContext) -> Dataset:
    """The model as Contributing Equipment (PS3.3 C.12.1.1.5; IHE AI Results)."""
    what = f"Model {context.card.name}, SHA-256 {context.model_digest}. {RESEARCH_ONLY}"
    item: Dataset = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=SrCode(*PROCESSING_EQUIPMENT),
        manufacturer_model_name=plain_text(context.card.title),
        software_versions=context.card.version,
        device_serial_number=serial_number(context.model_digest),
        contribution_datetime=context.local_time.replace(tzinfo=None),
        contribution_description=what,
    )
    item.DeviceUID = device_uid(context.model_digest)
    return item


def finish(dataset: Dataset, context: ResultContext) -> None:
    """Give `dataset` the dates of `context` and the patient and study of the source, unchanged."""
    moment = context.local_time
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    for event in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{event}Date", date)
        setattr(dataset, f"{event}Time", time)
    dataset.TimezoneOffsetFromUTC = moment.strftime("%z")[:5]
    for item in dataset.ContributingEquipmentSequence:
        if text(item, "ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = date + time
    header = context.source.frames[0].instance.header
    for keyword in (*MAY_BE_EMPTY, *COPIED_WHEN_FILLED):
        if text(header, keyword) or (keyword in MAY_BE_EMPTY and keyword in header):
            dataset[keyword] = deepcopy(header[keyword])


def copy_laterality(dataset: Dataset, context: ResultContext) -> None:
    """The side of a paired body part, for images and presentation states; SEG and reports have it coded."""
    side = text(context.source.series.header, "Laterality")
    if side:
        dataset.Laterality = side
