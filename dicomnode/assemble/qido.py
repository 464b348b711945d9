"""Asks a peer by QIDO-RS (PS3.18 section 10.6) how many instances a study has."""

from __future__ import annotations

import httpx

from dicomnode.errors import TransientError
from dicomnode.settings.node import PeerSettings

TIMEOUT_S = 10.0
MAXIMUM_ANSWER_BYTES = 1_000_000
NUMBER_OF_STUDY_RELATED_INSTANCES = "00201208"


def count_instances(peer: PeerSettings, study_instance_uid: str) -> int | None:
    """NumberOfStudyRelatedInstances (0020,1208) of a study at `peer.dicomweb`; None when it does not say.

    Raises TransientError when the peer cannot be asked.
    """
    query = {
        "StudyInstanceUID": study_instance_uid,
        "includefield": NUMBER_OF_STUDY_RELATED_INSTANCES,
    }
    try:
        with httpx.stream(
            "GET", f"{peer.dicomweb}/studies", params=query, headers=_headers(peer), timeout=TIMEOUT_S
        ) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                return None
            if answer.status_code != httpx.codes.OK:
                raise TransientError(f"peer {peer.name} answers QIDO-RS with HTTP {answer.status_code}")
            content = _read(answer)
    except httpx.HTTPError as error:
        raise TransientError(f"peer {peer.name} does not answer QIDO-RS: {type(error).__name__}") from error
    return _count(content)


def token_of(peer: PeerSettings) -> str | None:
    """The bearer token for a peer, if there is one. Raises TransientError when it cannot be read.

    It is read anew each time, so that it can be replaced while the node runs.
    """
    if peer.dicomweb_token_file is None:
        return None
    try:
        return peer.dicomweb_token_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TransientError(
            f"the token of peer {peer.name} in {peer.dicomweb_token_file} cannot be read "
            f"({type(error).__name__}); check peer.dicomweb_token_file"
        ) from error


def _headers(peer: PeerSettings) -> dict[str, str]:
    token = token_of(peer)
    return {"Accept": "application/dicom+json", **({"Authorization": f"Bearer {token}"} if token else {})}


def _read(answer: httpx.Response) -> bytes:
    content = b""
    for part in answer.iter_bytes():
        content += part
        if len(content) > MAXIMUM_ANSWER_BYTES:
            return b""
    return content


def _count(content: bytes) -> int | None:
    try:
        (study,) = httpx.Response(200, content=content).json()
        (value,) = study[NUMBER_OF_STUDY_RELATED_INSTANCES]["Value"]
        return int(value)
    except (ValueError, KeyError, TypeError):  # not one study, or it does not say
        return None
