"""Fetches instances from a peer by C-MOVE to our own port or by C-GET (PS3.4 annex C)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicomnode.assemble.query import Reference
from dicomnode.deliver.outgoing import UNCOMPRESSED, Offer
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.sender import associate
from dicomnode.receive.syntaxes import TRANSFER_SYNTAXES
from dicomnode.settings.node import PeerSettings

MOVE = StudyRootQueryRetrieveInformationModelMove
GET = StudyRootQueryRetrieveInformationModelGet
RESPONSE_TIMEOUT_S = 60.0
INSTANCES_AT_ONCE = 100
MAXIMUM_CLASSES = 126
"""An association has at most 128 presentation contexts (PS3.8 section 9.3.2.2)."""

Answers = Iterator[tuple[Any, Any]]


@dataclass(frozen=True)
class Fetched:
    """How a retrieval ended, by the peer's own words."""

    completed: int
    failed: int
    status: str
    """The last final status (hexadecimal), or why there is none."""


def move(ae_title: str, peer: PeerSettings, study_instance_uid: str, missing: list[Reference]) -> Fetched:
    """Have the peer send these instances to our own port. Raises TransientError without an association."""
    association = associate(ae_title, peer, [(str(MOVE), UNCOMPRESSED)], RESPONSE_TIMEOUT_S)
    return _fetch(
        association,
        study_instance_uid,
        missing,
        lambda wanted: association.send_c_move(wanted, ae_title, MOVE),
    )


def get(
    ae_title: str,
    peer: PeerSettings,
    study_instance_uid: str,
    missing: list[Reference],
    on_store: Callable[[Any], int],
) -> Fetched:
    """Have the peer send these instances here, where `on_store` takes each.

    Raises TransientError when no association can be had.
    """
    classes = sorted({reference.sop_class_uid for reference in missing})[:MAXIMUM_CLASSES]
    syntaxes = tuple(str(syntax) for syntax in TRANSFER_SYNTAXES)
    offers: list[Offer] = [(str(GET), UNCOMPRESSED), *((sop_class, syntaxes) for sop_class in classes)]
    association = associate(
        ae_title,
        peer,
        offers,
        RESPONSE_TIMEOUT_S,
        roles=[build_role(sop_class, scp_role=True) for sop_class in classes],
        handlers=[(evt.EVT_C_STORE, on_store)],
    )
    return _fetch(
        association, study_instance_uid, missing, lambda wanted: association.send_c_get(wanted, GET)
    )


def _fetch(
    association: Association,
    study_instance_uid: str,
    missing: list[Reference],
    send: Callable[[Dataset], Answers],
) -> Fetched:
    completed, failed, status = 0, 0, "no response"
    try:
        with parked_reactor(association):
            for wanted in _identifiers(study_instance_uid, missing):
                if not association.is_established:
                    break
                for answer, _ in send(wanted):
                    last = answer
                completed += int(last.get("NumberOfCompletedSuboperations", 0) or 0)
                failed += int(last.get("NumberOfFailedSuboperations", 0) or 0)
                status = f"{last.Status:04X}" if "Status" in last else "no response"
    finally:
        if association.is_established:
            association.release()
    return Fetched(completed, failed, status)


def _identifiers(study_instance_uid: str, missing: list[Reference]) -> Iterator[Dataset]:
    """One for each series, and for each hundred of its instances."""
    by_series: dict[str, list[str]] = defaultdict(list)
    for reference in missing:
        by_series[reference.series_instance_uid].append(reference.sop_instance_uid)
    for series_instance_uid, uids in by_series.items():
        for start in range(0, len(uids), INSTANCES_AT_ONCE):
            wanted = Dataset()
            wanted.QueryRetrieveLevel = "IMAGE"
            wanted.StudyInstanceUID = study_instance_uid
            wanted.SeriesInstanceUID = series_instance_uid
            wanted.SOPInstanceUID = uids[start : start + INSTANCES_AT_ONCE]
            yield wanted
