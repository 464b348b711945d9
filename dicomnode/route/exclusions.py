"""Series that no model may ever see, whatever the routes say, each with its reason."""

from __future__ import annotations

import re

from pydicom import Dataset
from pydicom.uid import UID

from dicomnode.encode.recognise import is_own_result
from dicomnode.imaging import is_image, is_secondary_capture
from dicomnode.study import Series, text

LOCALIZER_TYPES = frozenset({"LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM", "SCOUTVIEW"})
LOCALIZER_WORDS = re.compile(r"\b(localizer|localiser|scout|surview|topogram|scanogram)\b", re.I)
DOSE_WORDS = re.compile(r"\b(dose (report|info|record|summary|page)|patient protocol|exam protocol)\b", re.I)
# Vendors' own names for phantoms: GE "20cm QA#1", patient id "Service"; Siemens "QC Phantom"; daily QA.
PHANTOM_WORDS = re.compile(
    r"phantom|\b(qa|qc)\b(?!')|daily ?q[ac]|ctqa|quality[ -]?(assurance|control)", re.I
)
SERVICE_PATIENT_IDS = frozenset({"SERVICE", "QA", "QC", "DAILYQA", "PHANTOM"})


def exclusion(series: Series) -> str | None:
    """Why this series must not reach any model, or None when it may."""
    for instance in series.instances:
        if is_own_result(instance.values):
            return "made by a node of this kind (loop guard)"
        if not is_image(instance.sop_class_uid):
            return f"not an image: {UID(instance.sop_class_uid).name}"
        if is_secondary_capture(instance.sop_class_uid):
            return "secondary capture"
    header = series.header
    return _quality_control(header) or _dose_page(header) or _localizer(header)


def _quality_control(header: Dataset) -> str | None:
    if text(header, "QualityControlImage").upper() == "YES":
        return "quality-assurance image: QualityControlImage is YES"
    if text(header, "PatientID").upper() in SERVICE_PATIENT_IDS:
        return "quality-assurance image: PatientID is one that service and QA scans use"
    for keyword in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "ProtocolName"):
        if PHANTOM_WORDS.search(re.sub(r"[\^_]", " ", text(header, keyword))):
            return f"quality-assurance image: {keyword} names a phantom or quality control"
    return None


def _dose_page(header: Dataset) -> str | None:
    if DOSE_WORDS.search(text(header, "SeriesDescription")):
        return "dose or protocol page: by SeriesDescription"
    return None


def _localizer(header: Dataset) -> str | None:
    image_type = {part.upper() for part in text(header, "ImageType").split("\\")}
    if image_type & LOCALIZER_TYPES:
        return f"localizer: ImageType holds {', '.join(sorted(image_type & LOCALIZER_TYPES))}"
    for keyword in ("SeriesDescription", "ProtocolName"):
        if LOCALIZER_WORDS.search(text(header, keyword)):
            return f"localizer: by {keyword}"
    return None
