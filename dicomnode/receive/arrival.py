"""One instance as it comes over the network, and what the node needs to know of it to file it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicomnode.encode.recognise import is_own_result
from dicomnode.errors import PermanentError
from dicomnode.header_index import HeaderIndex, index_header
from dicomnode.part10 import read_part10
from dicomnode.receive.file_meta import file_header
from dicomnode.study import text
from dicomnode.urgency import urgency

REQUIRED = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Origin:
    """Who sent something, to which of our AE titles, and whether we asked for it."""

    calling_ae_title: str
    address: str
    called_ae_title: str
    asked_for: bool = False


@dataclass(frozen=True)
class Arrival:
    """The bytes of one C-STORE request: file meta information and data set as sent."""

    file_header: bytes
    """Preamble, prefix and file meta information (PS3.10 section 7.1)."""
    encoded: bytes | memoryview
    """The data set exactly as received; a view is only valid until what took the arrival is done."""
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    origin: Origin

    @cached_property
    def sha256(self) -> str:
        """Digest of `encoded`, in hexadecimal."""
        return hashlib.sha256(self.encoded).hexdigest()


@dataclass(frozen=True)
class Identity:
    """What the node needs to know of an instance to file it."""

    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    accession_number: str
    urgency: str | None
    """RequestedProcedurePriority (0040,1003), when the images say it."""
    own_result: bool


def arrival_of(event: Any, origin: Origin) -> Arrival:
    """The request that pynetdicom's C-STORE event tells of.

    A sub-operation of our own C-MOVE names us as its originator (PS3.7 section 9.1.1.1).
    """
    sop_class_uid = str(event.request.AffectedSOPClassUID)
    sop_instance_uid = str(event.request.AffectedSOPInstanceUID)
    transfer_syntax_uid = str(event.context.transfer_syntax)
    encoded = event.request.DataSet.getvalue()
    return Arrival(
        file_header=file_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid),
        encoded=encoded,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        origin=replace(origin, asked_for=True) if _moved_by(event) == origin.called_ae_title else origin,
    )


def _moved_by(event: Any) -> str:
    return str(event.request.MoveOriginatorApplicationEntityTitle or "").strip()


def identify(arrival: Arrival) -> Identity:
    """Read the identifying attributes of an arrival from its bytes.

    Raises PermanentError when they are missing, or contradict the C-STORE request.
    """
    header = _read_header(arrival)
    told = {keyword: text(header, keyword) for keyword in REQUIRED}
    for keyword, value in told.items():
        if not value:
            raise PermanentError(f"the data set has no {keyword}")
    for keyword, requested in (
        ("SOPInstanceUID", arrival.sop_instance_uid),
        ("SOPClassUID", arrival.sop_class_uid),
    ):
        if told[keyword] != requested:
            raise PermanentError(f"{keyword} of the data set is not the one of the C-STORE request")
    return Identity(
        study_instance_uid=told["StudyInstanceUID"],
        series_instance_uid=told["SeriesInstanceUID"],
        patient_id=text(header, "PatientID"),
        accession_number=text(header, "AccessionNumber"),
        urgency=urgency(header),
        own_result=is_own_result(header),
    )


def _read_header(arrival: Arrival) -> Dataset | HeaderIndex:
    index = index_header(arrival.encoded, arrival.transfer_syntax_uid)
    if index is not None:
        return index
    try:
        return read_part10(arrival.file_header + bytes(arrival.encoded), pixels=False)
    except InvalidDicomError as error:
        raise PermanentError(f"the data set cannot be read: {error}") from error
