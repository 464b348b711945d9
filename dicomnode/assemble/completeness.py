"""Asks a peer by C-FIND how many instances a study has."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.sender import UNCOMPRESSED, associate
from dicomnode.errors import TransientError
from dicomnode.settings import PeerSettings

PENDING = (0xFF00, 0xFF01)
TIMEOUT_S = 10.0


def count_instances(ae_title: str, peer: PeerSettings, study_instance_uid: str) -> int | None:
    """NumberOfStudyRelatedInstances (0020,1208) of a study at `peer`; None when it does not say.

    Raises TransientError when the peer cannot be asked.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_instance_uid
    query.NumberOfStudyRelatedInstances = None
    try:
        offer = (str(StudyRootQueryRetrieveInformationModelFind), UNCOMPRESSED)
        association = associate(ae_title, peer, [offer], TIMEOUT_S)
    except TransientError as error:
        message = f"peer {peer.name} does not accept an association for C-FIND ({error})"
        raise TransientError(message) from error
    try:
        with parked_reactor(association):
            answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    finally:
        association.release()
    return _count(answers)


def _count(answers: list[tuple[Any, Any]]) -> int | None:
    for status, identifier in answers:
        if status and status.Status in PENDING and identifier is not None:
            try:
                count = identifier.get("NumberOfStudyRelatedInstances")
                return None if count in (None, "") else int(count)
            except (TypeError, ValueError):  # not a number: the peer does not know
                return None
    return None
