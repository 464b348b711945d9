"""Sends files to a peer by C-STORE over one association, and says of each what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from ssl import SSLContext

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from dicomnode.deliver.reactor import parked_reactor
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.settings import PeerSettings
from dicomnode.tls import client_context

CONNECTION_TIMEOUT_S = 10.0
PROBED_SYNTAXES = tuple(
    str(uid)
    for uid in (
        ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian,
        RLELossless, JPEGLSLossless, JPEG2000Lossless,
    )
)  # fmt: skip
UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

Offer = tuple[str, tuple[str, ...]]
"""A SOP Class UID and the transfer syntaxes offered for it in one presentation context."""


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
    if status in (0x0000, 0x0001, 0x0107, 0x0111, 0x0116) or 0xB000 <= status <= 0xBFFF:
        return Fate.ACCEPTED  # success, a warning, or there already (0111)
    if 0xA700 <= status <= 0xA7FF or status in (0x0110, 0x0213):
        return Fate.TRY_LATER  # out of resources, processing failure: may pass
    return Fate.REFUSED


def associate(
    ae_title: str, peer: PeerSettings, offers: Iterable[Offer], response_timeout_s: float
) -> Association:
    """Open an association with these presentation contexts. Raises TransientError when it fails."""
    entity = AE(ae_title=ae_title)
    entity.connection_timeout = entity.acse_timeout = CONNECTION_TIMEOUT_S
    entity.dimse_timeout = entity.network_timeout = response_timeout_s
    for sop_class_uid, transfer_syntaxes in offers:
        entity.add_requested_context(sop_class_uid, list(transfer_syntaxes))
    if peer.maximum_pdu_bytes:
        entity.maximum_pdu_size = peer.maximum_pdu_bytes
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=_tls(peer))
    if association.is_established:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        raise TransientError(f"peer {peer.name} rejected the association: {answer.reason_str}")
    by_tls = " by TLS, or one side does not believe the other's certificate" if peer.tls else ""
    raise TransientError(f"peer {peer.name} does not answer at {peer.host}:{peer.port}{by_tls}")


def _tls(peer: PeerSettings) -> tuple[SSLContext, str] | None:
    """What pynetdicom needs for TLS: the context, and the name that the peer's certificate must bear."""
    files = peer.credentials
    if files is None:
        return None
    try:
        return client_context(files), peer.tls_name or peer.host
    except ConfigurationError as error:  # an administrator may mend it while deliveries wait
        raise TransientError(str(error)) from error


def echo(ae_title: str, peer: PeerSettings) -> None:
    """C-ECHO; raises TransientError when the peer does not answer with success."""
    association = associate(ae_title, peer, [(str(Verification), UNCOMPRESSED)], CONNECTION_TIMEOUT_S)
    try:
        with parked_reactor(association):
            status = association.send_c_echo()
    finally:
        association.release()
    if not status or status.Status != 0x0000:
        raise TransientError(f"peer {peer.name} answered the C-ECHO without success")


def accepted_syntaxes(
    ae_title: str, peer: PeerSettings, sop_classes: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Ask a peer by association, without sending anything, which transfer syntaxes it takes for each class.

    Each pair has a presentation context of its own (at most 128, PS3.8 9.3.2). Classes that it takes in
    none are absent. Raises TransientError when no association can be had.
    """
    offers = [(uid, (syntax,)) for uid in sop_classes for syntax in PROBED_SYNTAXES]
    verification: Offer = (str(Verification), UNCOMPRESSED)
    association = associate(ae_title, peer, [*offers, verification], CONNECTION_TIMEOUT_S)
    found: dict[str, tuple[str, ...]] = {}
    for context in association.accepted_contexts:
        uid = str(context.abstract_syntax)
        if uid != Verification:
            found[uid] = (*found.get(uid, ()), str(context.transfer_syntax[0]))
    association.release()
    return found


def send(
    ae_title: str, peer: PeerSettings, paths: list[Path], response_timeout_s: float
) -> Iterator[Response]:
    """Send DICOM files in order; yields one response each, as it comes.

    When the association breaks, the file in flight and all that follow are to be tried later, on a
    fresh association: resending the same SOP Instance UID is harmless.
    A file that cannot be read holds up no other. Raises TransientError when no association can be had.
    """
    # Verification keeps the association up when the peer takes none of our classes, so that it can say so.
    offers: set[Offer] = {(str(Verification), UNCOMPRESSED)}
    readable = []
    for path in paths:
        try:
            offers.add(_offer(path))
            readable.append(path)
        except OSError as error:
            yield Response(path, Fate.TRY_LATER, f"the file cannot be read ({error.strerror})")
        except (InvalidDicomError, AttributeError):
            yield Response(path, Fate.REFUSED, "the file is not a DICOM file")
    if not readable:
        return
    association = associate(ae_title, peer, sorted(offers), response_timeout_s)
    try:
        with parked_reactor(association):
            for path in readable:
                yield _store(association, path)
    finally:
        if association.is_established:
            association.release()


def _offer(path: Path) -> Offer:
    """What a file needs: its own transfer syntax when compressed, else any that needs no decoding."""
    meta = read_file_meta_info(path)
    syntax = UID(meta.TransferSyntaxUID)
    compressed = syntax.is_compressed and not syntax.is_deflated
    return str(meta.MediaStorageSOPClassUID), (str(syntax),) if compressed else UNCOMPRESSED


def _store(association: Association, path: Path) -> Response:
    if not association.is_established:
        return Response(path, Fate.TRY_LATER, "association ended before this object was sent")
    try:
        answer = association.send_c_store(dcmread(path))
    except ValueError as error:
        return Response(
            path, Fate.REFUSED, f"the peer does not take it ({error}); `dicomnode probe` finds what it takes"
        )
    except RuntimeError as error:
        return Response(path, Fate.TRY_LATER, f"association ended: {error}")
    if not answer:
        return Response(path, Fate.TRY_LATER, "no response: timed out or aborted")
    return Response(path, fate_of(answer.Status), f"{answer.Status:04X}")
