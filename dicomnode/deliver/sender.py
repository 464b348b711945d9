"""Sends files to a peer by C-STORE over one association, and says of each what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from ssl import SSLContext
from typing import Any

from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom._globals import DEFAULT_MAX_LENGTH
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from dicomnode.deliver.answers import LASTING_REJECTION, Fate, PeerUnavailable, fate_of
from dicomnode.deliver.line import taken_line
from dicomnode.deliver.outgoing import UNCOMPRESSED, NotAccepted, Offer, OutgoingFile, read_outgoing
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.store_phase import NoAnswer, StorePhase
from dicomnode.deliver.watchdog import Watchdog, watchdog_of
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.settings.node import PeerSettings
from dicomnode.tls import client_context

CONNECTION_TIMEOUT_S = 10.0
NEGOTIATION_LIMIT_S = 3 * CONNECTION_TIMEOUT_S
"""For connection, negotiation and, at the end, release, however slowly the peer moves."""
LOWEST_RATE_BYTES_PER_S = 50_000
"""A peer that takes an object more slowly is cut off."""
PROBED_SYNTAXES = tuple(
    str(uid)
    for uid in (
        ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian,
        RLELossless, JPEGLSLossless, JPEG2000Lossless,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Response:
    """The answer to one file: its fate, and the status or reason in words."""

    path: Path
    fate: Fate
    status: str
    from_peer: bool = False
    """Whether the peer itself said so; else it is our own finding."""


def associate(
    ae_title: str,
    peer: PeerSettings,
    offers: Iterable[Offer],
    response_timeout_s: float,
    roles: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
) -> Association:
    """Open an association with these presentation contexts. Raises PeerUnavailable when it fails.

    `roles` and `handlers` are for peers that ask or send something on it (C-GET, storage commitment).
    """
    entity = AE(ae_title=ae_title)
    entity.connection_timeout = entity.acse_timeout = CONNECTION_TIMEOUT_S
    entity.dimse_timeout = entity.network_timeout = response_timeout_s
    for sop_class_uid, transfer_syntaxes in offers:
        entity.add_requested_context(sop_class_uid, list(transfer_syntaxes))
    watchdog = Watchdog()
    with watchdog.limit(NEGOTIATION_LIMIT_S):
        association = entity.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            max_pdu=peer.maximum_pdu_bytes or DEFAULT_MAX_LENGTH,
            ext_neg=list(roles),
            tls_args=_tls(peer),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _say_at_once),
                (evt.EVT_CONN_OPEN, watchdog.on_connection),
                *handlers,
            ],
        )
    if association.is_established:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        raise PeerUnavailable(
            f"peer {peer.name} rejected the association: {answer.reason_str}",
            lasting=answer.result == LASTING_REJECTION,
        )
    by_tls = " by TLS, or one side does not believe the other's certificate" if peer.tls else ""
    raise PeerUnavailable(f"peer {peer.name} does not answer at {peer.host}:{peer.port}{by_tls}")


def _say_at_once(event: Any) -> None:
    """pynetdicom writes a command and its data set apart; the system would keep the second back for 40 ms."""
    event.assoc.dul.socket.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def _tls(peer: PeerSettings) -> tuple[SSLContext, str] | None:
    """What pynetdicom needs for TLS: the context, and the name that the peer's certificate must bear."""
    files = peer.credentials
    if files is None:
        return None
    try:
        return client_context(files), peer.tls_name or peer.host
    except ConfigurationError as error:  # an administrator may mend it while deliveries wait
        raise PeerUnavailable(str(error)) from error


def release(association: Association) -> None:
    """End an association in good order, or at least in good time."""
    if association.is_established:
        with watchdog_of(association).limit(NEGOTIATION_LIMIT_S):
            association.release()


def echo(ae_title: str, peer: PeerSettings) -> None:
    """C-ECHO; raises TransientError when the peer does not answer with success."""
    association = associate(ae_title, peer, [(str(Verification), UNCOMPRESSED)], CONNECTION_TIMEOUT_S)
    try:
        with parked_reactor(association), watchdog_of(association).limit(NEGOTIATION_LIMIT_S):
            status = association.send_c_echo()
    finally:
        release(association)
    if not status or status.Status != 0x0000:
        raise TransientError(f"peer {peer.name} answered the C-ECHO without success")


def accepted_syntaxes(
    ae_title: str, peer: PeerSettings, sop_classes: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Ask a peer by association, without sending anything, which transfer syntaxes it takes for each class.

    Each pair has a presentation context of its own (at most 128, PS3.8 9.3.2). Classes that it takes in
    none are absent. Raises PeerUnavailable when no association can be had.
    """
    offers = [(uid, (syntax,)) for uid in sop_classes for syntax in PROBED_SYNTAXES]
    verification: Offer = (str(Verification), UNCOMPRESSED)
    association = associate(ae_title, peer, [*offers, verification], CONNECTION_TIMEOUT_S)
    found: dict[str, tuple[str, ...]] = {}
    for context in association.accepted_contexts:
        uid = str(context.abstract_syntax)
        if uid != Verification:
            found[uid] = (*found.get(uid, ()), str(context.transfer_syntax[0]))
    release(association)
    return found


def send(
    ae_title: str, peer: PeerSettings, paths: list[Path], response_timeout_s: float
) -> Iterator[Response]:
    """Send DICOM files in order; yields one response each, as it comes.

    When the association breaks, the file in flight and all that follow are to be tried later, on a
    fresh association: resending the same SOP Instance UID is harmless.
    A file that cannot be read holds up no other. Raises PeerUnavailable when no association can be had.
    """
    # Verification keeps the association up when the peer takes none of our classes, so that it can say so.
    offers: set[Offer] = {(str(Verification), UNCOMPRESSED)}
    files = []
    for path in paths:
        try:
            files.append(read_outgoing(path))
            offers.update(files[-1].offers)
        except OSError as error:
            yield Response(path, Fate.TRY_LATER, f"the file cannot be read ({error.strerror})")
        except InvalidDicomError:
            yield Response(path, Fate.REFUSED, "the file is not a DICOM file")
    if not files:
        return
    association = associate(ae_title, peer, sorted(offers), response_timeout_s)
    with _store_phase(association, response_timeout_s) as phase:
        yield from _store_all(phase, files, association.accepted_contexts, response_timeout_s)


@contextmanager
def _store_phase(association: Association, response_timeout_s: float) -> Iterator[StorePhase]:
    """What an association is there for, and then its end."""
    phase = None
    try:
        with taken_line(association, response_timeout_s) as (channel, reader):
            phase = StorePhase(channel, reader, association.acceptor.maximum_length)
            yield phase
    finally:
        if phase is not None and phase.in_flight:
            _break_off(association, phase)
        release(association)


def _break_off(association: Association, phase: StorePhase) -> None:
    """End an association on which an object is in flight, at once."""
    if phase.is_over:
        association.join(NEGOTIATION_LIMIT_S)  # until pynetdicom has found that out, too
    else:
        with watchdog_of(association).limit(NEGOTIATION_LIMIT_S):
            association.abort()


def _store_all(
    phase: StorePhase, files: Sequence[OutgoingFile], accepted: Sequence[Any], response_timeout_s: float
) -> Iterator[Response]:
    for number, file in enumerate(files):
        response = _store(phase, file, accepted, response_timeout_s)
        yield response
        if response.fate is Fate.NO_ANSWER:
            for rest in files[number + 1 :]:
                yield Response(rest.path, Fate.NOT_SENT, "association ended before this object was sent")
            return


def longest_transfer_s(size_bytes: int, response_timeout_s: float) -> float:
    """How long an object may take until it is answered."""
    return 2 * response_timeout_s + size_bytes / LOWEST_RATE_BYTES_PER_S


def _store(
    phase: StorePhase, file: OutgoingFile, accepted: Sequence[Any], response_timeout_s: float
) -> Response:
    try:
        context = file.context(accepted)
        data_set, size_bytes = file.open_data_set(str(context.transfer_syntax[0]))
    except OSError as error:
        return Response(file.path, Fate.TRY_LATER, f"the file cannot be read ({error.strerror})")
    except (NotAccepted, ValueError) as error:
        reason = f"the peer does not take it ({error}); `dicomnode probe` finds what it takes"
        return Response(file.path, Fate.REFUSED, reason, from_peer=True)
    deadline = time.monotonic() + longest_transfer_s(size_bytes, response_timeout_s)
    try:
        with data_set:
            status = phase.store(
                context.context_id, file.sop_class_uid, file.sop_instance_uid, data_set, size_bytes, deadline
            )
    except NoAnswer as error:
        return Response(file.path, Fate.NO_ANSWER, str(error))
    return Response(file.path, fate_of(status), f"{status:04X}", from_peer=True)
