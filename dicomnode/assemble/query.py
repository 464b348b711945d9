"""Asks a peer by C-FIND (PS3.4 annex C) what it holds of a study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicomnode.deliver.outgoing import UNCOMPRESSED
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.sender import associate
from dicomnode.errors import TransientError
from dicomnode.settings.node import PeerSettings
from dicomnode.study import text

FIND = StudyRootQueryRetrieveInformationModelFind
PENDING = (0xFF00, 0xFF01)
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Reference:
    """One instance that a peer holds."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def count_instances(ae_title: str, peer: PeerSettings, study_instance_uid: str) -> int | None:
    """NumberOfStudyRelatedInstances (0020,1208) of a study at `peer`; None when it does not say.

    Raises TransientError when the peer cannot be asked.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_instance_uid
    query.NumberOfStudyRelatedInstances = None
    with _association(ae_title, peer) as association:
        answers = _ask(association, query)
    return _number(answers[0], "NumberOfStudyRelatedInstances") if answers else None


def instances_at(ae_title: str, peer: PeerSettings, study_instance_uid: str) -> list[Reference]:
    """Every instance of a study that the peer holds. Raises TransientError when it cannot be asked."""
    with _association(ae_title, peer) as association:
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = study_instance_uid
        query.SeriesInstanceUID = None
        found = []
        for series in _ask(association, query):
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            query.StudyInstanceUID = study_instance_uid
            query.SeriesInstanceUID = text(series, "SeriesInstanceUID")
            query.SOPInstanceUID = query.SOPClassUID = None
            found += [
                Reference(query.SeriesInstanceUID, text(image, "SOPClassUID"), text(image, "SOPInstanceUID"))
                for image in _ask(association, query)
            ]
    return found


@contextmanager
def _association(ae_title: str, peer: PeerSettings) -> Iterator[Association]:
    association = associate(ae_title, peer, [(str(FIND), UNCOMPRESSED)], TIMEOUT_S)
    try:
        with parked_reactor(association):
            yield association
    finally:
        if association.is_established:
            association.release()


def _ask(association: Association, query: Dataset) -> list[Dataset]:
    """All matches; none when the peer answers with a failure."""
    if not association.is_established:
        raise TransientError("the peer ended the association between two queries")
    answers = list(association.send_c_find(query, FIND))
    return [
        identifier
        for status, identifier in answers
        if status and status.Status in PENDING and identifier is not None
    ]


def _number(answer: Dataset, keyword: str) -> int | None:
    word = text(answer, keyword)
    return int(word) if word.isdecimal() else None
