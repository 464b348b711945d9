"""Asking a real C-FIND provider how many instances a study has."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicomnode.assemble import query
from dicomnode.assemble.query import FIND, count_instances
from dicomnode.deliver.outgoing import UNCOMPRESSED
from dicomnode.deliver.sender import associate, release
from dicomnode.errors import TransientError
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings

Answers = Callable[[Any], Iterator[tuple[int, Dataset | None]]]


def answer(**attributes: Any) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = "STUDY"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@contextmanager
def archive(
    on_find: Answers, context: str = StudyRootQueryRetrieveInformationModelFind
) -> Iterator[PeerSettings]:
    entity, port = AE(ae_title="PACS"), free_port()
    entity.add_supported_context(context)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)])
    try:
        yield PeerSettings(name="PACS", ae_title="PACS", host="127.0.0.1", port=port)
    finally:
        server.shutdown()


def test_the_count_of_the_study_is_asked_and_returned() -> None:
    asked = []

    def on_find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        yield 0xFF00, answer(StudyInstanceUID="1.2.3", NumberOfStudyRelatedInstances=42)

    with archive(on_find) as peer:
        assert count_instances("NODE", peer, "1.2.3") == 42
    (wanted,) = asked
    assert (wanted.QueryRetrieveLevel, wanted.StudyInstanceUID) == ("STUDY", "1.2.3")
    assert "NumberOfStudyRelatedInstances" in wanted


def test_what_is_said_goes_out_at_once() -> None:
    with archive(nothing) as peer:
        association = associate("NODE", peer, [(FIND, UNCOMPRESSED)], 10.0)
        channel = association.dul.socket.socket
        without_delay = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        release(association)
    assert without_delay, "a data set would wait 40 ms behind its command"


def nothing(_: Any) -> Iterator[tuple[int, Dataset | None]]:
    yield from ()


def silent_about_it(_: Any) -> Iterator[tuple[int, Dataset | None]]:
    yield 0xFF00, answer(StudyInstanceUID="1.2.3")


def empty(_: Any) -> Iterator[tuple[int, Dataset | None]]:
    yield 0xFF00, answer(NumberOfStudyRelatedInstances=None)


def refuses(_: Any) -> Iterator[tuple[int, Dataset | None]]:
    yield 0xA700, None


def nonsense(_: Any) -> Iterator[tuple[int, Dataset | None]]:
    dataset = answer()
    dataset.add_new("NumberOfStudyRelatedInstances", "LO", "many")
    yield 0xFF00, dataset


@pytest.mark.parametrize("on_find", [nothing, silent_about_it, empty, refuses, nonsense])
def test_a_peer_that_does_not_know_gives_no_count(on_find: Answers) -> None:
    with archive(on_find) as peer:
        assert count_instances("NODE", peer, "1.2.3") is None


def aborts(event: Any) -> Iterator[tuple[int, Dataset | None]]:
    event.assoc.abort()
    yield 0xFF00, None


def test_a_peer_that_aborts_gives_no_count() -> None:
    with archive(aborts) as peer:
        assert count_instances("NODE", peer, "1.2.3") is None


def test_a_peer_that_is_not_there_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "TIMEOUT_S", 1.0)
    peer = PeerSettings(name="PACS", ae_title="PACS", host="127.0.0.1", port=free_port())
    with pytest.raises(TransientError, match="peer PACS does not answer"):
        count_instances("NODE", peer, "1.2.3")


def test_a_peer_without_queries_cannot_be_asked() -> None:
    with archive(nothing, context=CTImageStorage) as peer, pytest.raises(TransientError, match="peer PACS"):
        count_instances("NODE", peer, "1.2.3")
