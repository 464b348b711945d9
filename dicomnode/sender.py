"""Sends files to a peer by C-STORE over one association, and says of each what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from dicomnode.config import PeerSettings
from dicomnode.errors import TransientError
from dicomnode.reactor import parked_reactor

CONNECTION_TIMEOUT_S = 10.0


class Fate(StrEnum):
    """What a C-STORE response means for the delivery."""

    ACCEPTED = "accepted"
    TRY_LATER = "try_later"
    REFUSED = "refused"


@dataclass(frozen=True)
class Response:
    """The answer to one file: its fate, and the status or reason in words."""

    path: Path
    fate: Fate
    status: str


def fate_of(status: int) -> Fate:
    """Sort a C-STORE status (PS3.4 table B.2-1, PS3.7 annex C) into what follows from it."""
    if status == 0x0000 or status in (0xB000, 0xB006, 0xB007, 0x0001, 0x0107, 0x0116):
        return Fate.ACCEPTED
    if 0xA700 <= status <= 0xA7FF or status in (0x0110, 0x0213, 0x0106):
        return Fate.TRY_LATER  # out of resources, processing failure: may pass
    return Fate.REFUSED


def associate(
    ae_title: str, peer: PeerSettings, sop_class_uids: set[str], response_timeout_s: float
) -> Association:
    """Open an association that offers the given SOP classes. Raises TransientError when it fails."""
    entity = AE(ae_title=ae_title)
    entity.connection_timeout = entity.acse_timeout = CONNECTION_TIMEOUT_S
    entity.dimse_timeout = entity.network_timeout = response_timeout_s
    for sop_class_uid in sorted(sop_class_uids):
        entity.add_requested_context(sop_class_uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    if association.is_established:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        raise TransientError(f"peer {peer.name} rejected the association: {answer.reason_str}")
    raise TransientError(f"peer {peer.name} does not answer at {peer.host}:{peer.port}")


def echo(ae_title: str, peer: PeerSettings) -> None:
    """C-ECHO; raises TransientError when the peer does not answer with success."""
    association = associate(ae_title, peer, {str(Verification)}, CONNECTION_TIMEOUT_S)
    try:
        with parked_reactor(association):
            status = association.send_c_echo()
    finally:
        association.release()
    if not status or status.Status != 0x0000:
        raise TransientError(f"peer {peer.name} answered the C-ECHO without success")


def send(
    ae_title: str, peer: PeerSettings, files: list[tuple[Path, str]], response_timeout_s: float
) -> Iterator[Response]:
    """Send `files` (path and SOP class) in order; yields one response each, as it comes.

    When the association breaks, the file in flight and all that follow are to be tried later, on a
    fresh association: resending the same SOP Instance UID is harmless.
    Raises TransientError when no association can be had.
    """
    association = associate(ae_title, peer, {sop_class for _, sop_class in files}, response_timeout_s)
    try:
        with parked_reactor(association):
            for path, sop_class_uid in files:
                yield _store(association, path, sop_class_uid)
    finally:
        if association.is_established:
            association.release()


def _store(association: Association, path: Path, sop_class_uid: str) -> Response:
    if not association.is_established:
        return Response(path, Fate.TRY_LATER, "association ended before this object was sent")
    if not any(cx.abstract_syntax == sop_class_uid for cx in association.accepted_contexts):
        return Response(path, Fate.REFUSED, "the peer does not accept this SOP class")
    try:
        answer = association.send_c_store(dcmread(path))
    except RuntimeError as error:
        return Response(path, Fate.TRY_LATER, f"association ended: {error}")
    if not answer:
        return Response(path, Fate.TRY_LATER, "no response: timed out or aborted")
    return Response(path, fate_of(answer.Status), f"{answer.Status:04X}")
