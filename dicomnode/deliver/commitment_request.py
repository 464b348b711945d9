"""Says to a peer that it shall commit: the association and the N-ACTION (PS3.4 annex J.3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from dicomnode.deliver.outgoing import UNCOMPRESSED
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.references import Reference, action_information
from dicomnode.deliver.sender import associate
from dicomnode.deliver.watchdog import watchdog_of
from dicomnode.errors import TransientError
from dicomnode.settings.node import PeerSettings, Settings

REQUEST_COMMITMENT = 1
"""Action Type ID."""
SUCCESS = 0x0000


def associate_to_ask(settings: Settings, peer: PeerSettings, handlers: Sequence[Any]) -> Association:
    """An association on which a peer can be asked. Raises PeerUnavailable."""
    # Verification keeps the association up when the peer knows no commitment, so that it can say so.
    offers = [(str(uid), UNCOMPRESSED) for uid in (StorageCommitmentPushModel, Verification)]
    timeout_s = settings.delivery.response_timeout_s
    return associate(settings.node.ae_title, peer, offers, timeout_s, handlers=handlers)


def request_commitment(
    association: Association,
    peer: PeerSettings,
    transaction_uid: str,
    references: Sequence[Reference],
    response_timeout_s: float,
) -> None:
    """Send one N-ACTION. Raises TransientError unless the peer takes it on."""
    try:
        with parked_reactor(association), watchdog_of(association).limit(2 * response_timeout_s):
            answer, _ = association.send_n_action(
                action_information(transaction_uid, references),
                REQUEST_COMMITMENT,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
    except ValueError as error:
        raise TransientError(
            f"peer {peer.name} takes no storage commitment; set storage_commitment = false for it"
        ) from error
    except RuntimeError as error:
        raise TransientError(f"association ended: {error}") from error
    if not answer or answer.Status != SUCCESS:
        said = f"answered {answer.Status:04X}" if answer else "did not answer"
        raise TransientError(f"peer {peer.name} {said} to the request for commitment")
