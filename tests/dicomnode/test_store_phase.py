"""C-STOREs as we say and hear them, against peers that say every byte themselves, and against pynetdicom."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, evt

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.outgoing import UNCOMPRESSED, read_outgoing
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.sender import associate, release, send
from dicomnode.deliver.store_phase import NoAnswer, StorePhase
from dicomnode.settings.network import ConnectionSettings
from dicomnode.settings.node import PeerSettings
from dicomnode.wire.pdus import PduReader
from tests.dicomnode.parts import encoded, image, save, wait_until
from tests.dicomnode.raw_sender import (
    ABORT,
    COMMAND,
    IMAGE,
    LAST,
    P_DATA,
    RELEASE_RQ,
    command_set,
    p_data,
    pdu,
    uid,
    values,
)

RESPONSE_TIMEOUT_S = 60.0
IMPATIENT_S = 0.2
INSTANCE = "1.2.3"
PLACES = st.lists(st.integers(1, 200), max_size=6)
Element = tuple[int, bytes]


def store_response(*more: Element, message_id: int = 1, status: int = 0, data_set: bytes = b"\1\1") -> bytes:
    """The command set of a C-STORE-RSP."""
    return command_set(
        (0x0002, uid(CTImageStorage)),
        (0x0100, b"\1\x80"),
        (0x0120, message_id.to_bytes(2, "little")),
        (0x0800, data_set),
        (0x0900, status.to_bytes(2, "little")),
        *more,
        (0x1000, uid(INSTANCE)),
    )


def answered(content: bytes) -> bytes:
    """A command set in one PDU."""
    return p_data(values(IMAGE, COMMAND, content))


class RawPeer(threading.Thread):
    """The other end of a connection: hears one C-STORE-RQ, then says what it was told to say."""

    def __init__(self, channel: socket.socket, answer: bytes, pieces: list[int], closes: bool) -> None:
        super().__init__(daemon=True)
        self._channel, self._answer, self._pieces, self._closes = channel, answer, pieces, closes
        self.command, self.data_set = b"", b""
        self.longest_pdu_bytes = 0

    def run(self) -> None:
        while not self._hear():
            pass
        start = 0
        for end in [*sorted(self._pieces), len(self._answer)]:
            self._channel.sendall(self._answer[start:end])
            start = max(start, end)
        if self._closes:
            self._channel.shutdown(socket.SHUT_RDWR)

    def _hear(self) -> bool:
        """One PDU with one value; whether that ended the data set."""
        header = self._channel.recv(6, socket.MSG_WAITALL)
        length = int.from_bytes(header[2:6], "big")
        content = self._channel.recv(length, socket.MSG_WAITALL)
        assert (header[0], len(content), content[4]) == (P_DATA, length, IMAGE)
        assert int.from_bytes(content[:4], "big") == length - 4
        self.longest_pdu_bytes = max(self.longest_pdu_bytes, length)
        if content[5] & COMMAND:
            self.command += content[6:]
        else:
            self.data_set += content[6:]
        return content[5] == LAST


@contextmanager
def conversation(
    answer: bytes,
    longest_pdu_bytes: int = 0,
    pieces: list[int] | None = None,
    timeout_s: float = RESPONSE_TIMEOUT_S,
    *,
    closes: bool = False,
) -> Iterator[tuple[StorePhase, RawPeer, PduReader]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = PduReader(ours, ConnectionSettings(idle_timeout_s=timeout_s), is_first=False)
        peer = RawPeer(theirs, answer, pieces or [], closes)
        peer.start()
        yield StorePhase(ours, reader, longest_pdu_bytes), peer, reader
        peer.join(RESPONSE_TIMEOUT_S)


def store(phase: StorePhase, content: bytes, within_s: float = RESPONSE_TIMEOUT_S) -> int:
    deadline = time.monotonic() + within_s
    return phase.store(IMAGE, CTImageStorage, INSTANCE, BytesIO(content), len(content), deadline)


@settings(deadline=None, max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    size_bytes=st.integers(0, 5000),
    longest_pdu_bytes=st.sampled_from([0, 8, 9, 16, 131, 4096, 16384]),
    cuts=PLACES,
    together=st.booleans(),
    pieces=PLACES,
)
def test_however_the_peer_cuts_pdus_the_object_arrives_and_its_response_is_understood(
    size_bytes: int, longest_pdu_bytes: int, cuts: list[int], together: bool, pieces: list[int]
) -> None:
    content = bytes(n % 251 for n in range(size_bytes))
    said = values(IMAGE, COMMAND, store_response(status=0xB007), cuts)
    answer = p_data(said) if together else b"".join(p_data([value]) for value in said)
    with conversation(answer, longest_pdu_bytes, [p for p in pieces if p < len(answer)]) as (phase, peer, _):
        assert store(phase, content) == 0xB007
        assert not phase.in_flight
    assert peer.data_set == content
    assert peer.longest_pdu_bytes <= (longest_pdu_bytes or 131072)
    assert uid(INSTANCE) in peer.command and uid(CTImageStorage) in peer.command


def test_an_object_of_many_batches_arrives_whole() -> None:
    content = bytes(range(256)) * 12_345
    for longest_pdu_bytes in (0, 1000, 16384):
        with conversation(answered(store_response()), longest_pdu_bytes) as (phase, peer, _):
            assert store(phase, content) == 0
        assert peer.data_set == content


@pytest.mark.parametrize(
    "more",
    [
        [(0x0902, b"Disk full, Zebrowska^Hildegard! ")],
        [(0x0901, b"\x10\0\x20\0"), (0x0902, b"x" * 64)],
        [(0x5010, b"retired ")],
    ],
)
def test_what_else_a_response_says_is_no_matter(more: list[Element]) -> None:
    with conversation(answered(store_response(*more, status=0xA700))) as (phase, _, _):
        assert store(phase, b"1234") == 0xA700


NO_RESPONSES: dict[str, bytes] = {
    "of another message": answered(store_response(message_id=2)),
    "with a data set": answered(store_response(data_set=b"\1\0")),
    "without a status": answered(command_set((0x0100, b"\1\x80"), (0x0120, b"\1\0"), (0x0800, b"\1\1"))),
    "a request": answered(command_set((0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1"))),
    "a data set": p_data(values(IMAGE, 0, store_response())),
    "two at once": p_data(values(IMAGE, COMMAND, store_response()) * 2),
    "half a value": pdu(P_DATA, b"\0\0\0\x50\3\3abc"),
    "an element beyond the end": answered(store_response()[:-4]),
    "another group": answered(b"\x08\0\0\0\4\0\0\0abcd"),
    "without end": b"".join(p_data([(IMAGE, COMMAND, bytes(1000))]) for _ in range(6)),
}


@pytest.mark.parametrize("said", NO_RESPONSES.values(), ids=NO_RESPONSES.keys())
def test_what_is_no_response_ends_the_association(said: bytes) -> None:
    with conversation(said) as (phase, _, reader):
        with pytest.raises(NoAnswer):
            store(phase, b"1234")
        assert phase.in_flight
        assert not phase.is_over  # so that it is aborted
        assert not reader.has_given_back


@pytest.mark.parametrize("kind", [ABORT, RELEASE_RQ, 0x09])
def test_what_ends_an_association_goes_back_to_pynetdicom(kind: int) -> None:
    with conversation(pdu(kind)) as (phase, _, reader):
        with pytest.raises(NoAnswer):
            store(phase, b"1234")
        assert phase.is_over
        assert reader.receive(6) + reader.receive(4) == pdu(kind)
        assert not reader.has_given_back


@pytest.mark.parametrize("said", [b"", answered(store_response())[:40]])
def test_a_peer_that_hangs_up_is_noticed_at_once(said: bytes) -> None:
    with conversation(said, closes=True) as (phase, _, reader):
        with pytest.raises(NoAnswer):
            store(phase, b"1234")
        assert phase.is_over
        assert reader.receive(6) == b""


@pytest.mark.parametrize("said", [b"", answered(store_response())[:40]])
def test_a_peer_that_falls_silent_is_not_waited_for_without_end(said: bytes) -> None:
    with conversation(said, timeout_s=2.0 if said else IMPATIENT_S) as (phase, _, _):
        with pytest.raises(NoAnswer):
            store(phase, b"1234")
        assert phase.is_over == bool(said)  # half a PDU cannot be answered by an A-ABORT


def test_a_peer_that_answers_in_endless_fragments_has_a_deadline() -> None:
    ours, theirs = socket.socketpair()

    def drip() -> None:
        with suppress(OSError):
            while True:
                theirs.sendall(p_data([(IMAGE, COMMAND, b"")]))

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    with theirs:
        with ours, pytest.raises(NoAnswer, match="timed out"):
            store(phase_on(ours), b"1234", within_s=IMPATIENT_S)
        dripping.join(RESPONSE_TIMEOUT_S)
    assert not dripping.is_alive()


def test_a_peer_that_stops_reading_has_a_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        phase = phase_on(ours)
        with pytest.raises(NoAnswer, match="too slowly"):
            store(phase, bytes(50_000_000), within_s=IMPATIENT_S)
        assert phase.is_over


def test_a_file_that_became_shorter_ends_the_association() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        phase = phase_on(ours)
        with pytest.raises(NoAnswer, match="shorter"):
            phase.store(IMAGE, CTImageStorage, INSTANCE, BytesIO(b"12"), 4, time.monotonic() + 60.0)
        assert phase.in_flight
        assert not phase.is_over


def test_a_peer_without_room_for_a_fragment_is_told_apart() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(NoAnswer, match="PDUs of 7 bytes"):
        store(phase_on(ours, 7), b"1234")


def phase_on(channel: socket.socket, longest_pdu_bytes: int = 0) -> StorePhase:
    return StorePhase(channel, PduReader(channel, ConnectionSettings(), is_first=False), longest_pdu_bytes)


Stored = tuple[str, str, str, bytes]


class Archive:
    """A pynetdicom peer that takes CT in some transfer syntaxes, and what it was sent."""

    def __init__(self, syntaxes: list[UID], maximum_pdu_bytes: int, answer: Callable[[Any], int]) -> None:
        self.stored: list[Stored] = []
        self.ended: list[str] = []
        self._answer = answer
        entity = AE(ae_title="PEER")
        entity.maximum_pdu_size = maximum_pdu_bytes
        entity.add_supported_context(CTImageStorage, syntaxes)
        handlers = [
            (evt.EVT_C_STORE, self._take),
            (evt.EVT_RELEASED, lambda _: self.ended.append("released")),
            (evt.EVT_ABORTED, lambda _: self.ended.append("aborted")),
        ]
        self.server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.peer = PeerSettings(
            name="PEER", ae_title="PEER", host="127.0.0.1", port=self.server.server_address[1]
        )

    def _take(self, event: Any) -> int:
        request, syntax = event.request, event.context.transfer_syntax
        said = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(syntax))
        self.stored.append((*said, request.DataSet.getvalue()))
        return self._answer(event)


@contextmanager
def archive(
    *syntaxes: UID,
    maximum_pdu_bytes: int = 16382,
    answer: Callable[[Any], int] = lambda _: 0,
) -> Iterator[Archive]:
    found = Archive(list(syntaxes) or [ExplicitVRLittleEndian], maximum_pdu_bytes, answer)
    try:
        yield found
    finally:
        found.server.shutdown()


def by_the_node(peer: PeerSettings, paths: list[Path]) -> list[str]:
    return [response.status for response in send("NODE", peer, paths, RESPONSE_TIMEOUT_S)]


def by_pynetdicom(peer: PeerSettings, paths: list[Path]) -> list[str]:
    offers = [(str(CTImageStorage), (*UNCOMPRESSED, str(DeflatedExplicitVRLittleEndian)))]
    association = associate("NODE", peer, offers, RESPONSE_TIMEOUT_S)
    with parked_reactor(association):
        statuses = [association.send_c_store(dcmread(path)).Status for path in paths]
    release(association)
    return [f"{status:04X}" for status in statuses]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("maximum_pdu_bytes", [0, 4097])
def test_what_arrives_is_what_pynetdicom_sends(tmp_path: Path, syntax: UID, maximum_pdu_bytes: int) -> None:
    paths = [
        save(image(SOPInstanceUID=f"1.2.{n}", PixelData=bytes(n * 3000)), tmp_path / f"{n}.dcm")
        for n in (2, 30)
    ]
    deflated = image(SOPInstanceUID="1.2.99")
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    paths.append(save(deflated, tmp_path / "deflated.dcm"))
    with archive(syntax, maximum_pdu_bytes=maximum_pdu_bytes) as found:
        statuses = by_the_node(found.peer, paths)
        ours = list(found.stored)
        assert by_pynetdicom(found.peer, paths) == statuses == ["0000"] * 3
        assert found.stored[3:] == ours
        wait_until(lambda: found.ended == ["released"] * 2)
    assert {syntax_uid for _, _, syntax_uid, _ in ours} == {str(syntax)}
    if syntax == ExplicitVRLittleEndian:
        assert ours[1][3] == encoded(dcmread(paths[1]))


def test_a_file_in_implicit_vr_stays_so_at_a_peer_that_prefers_explicit(tmp_path: Path) -> None:
    """A value may be too long for the explicit one."""
    dataset = image()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = save(dataset, tmp_path / "implicit.dcm")
    with archive(ExplicitVRLittleEndian, ImplicitVRLittleEndian) as found:
        assert by_the_node(found.peer, [path, save(image(), tmp_path / "explicit.dcm")]) == ["0000"] * 2
    (_, _, implicit, content), (_, _, explicit, _) = found.stored
    assert (implicit, explicit) == (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    assert path.read_bytes().endswith(content)


def abort_at_second(event: Any) -> int:
    if event.request.AffectedSOPInstanceUID == "1.2.2":
        event.assoc.abort()
    return 0


def release_at_second(event: Any) -> int:
    """The peer ends the association in good order, at the wrong moment."""
    if event.request.AffectedSOPInstanceUID == "1.2.2":
        event.assoc.dul.socket.send(pdu(RELEASE_RQ))
    return 0


def nonsense_at_second(event: Any) -> int:
    if event.request.AffectedSOPInstanceUID == "1.2.2":
        event.assoc.dul.socket.send(p_data(values(event.context.context_id, COMMAND, bytes(40))))
    return 0


@pytest.mark.parametrize("answer", [abort_at_second, release_at_second, nonsense_at_second])
def test_an_association_that_breaks_ends_on_both_sides_and_the_next_is_as_good_as_ever(
    tmp_path: Path, answer: Callable[[Any], int]
) -> None:
    paths = [save(image(SOPInstanceUID=f"1.2.{n}"), tmp_path / f"{n}.dcm") for n in (1, 2, 3)]
    with archive(answer=answer) as found:
        before = threading.active_count()
        fates = [response.fate for response in send("NODE", found.peer, paths, RESPONSE_TIMEOUT_S)]
        assert fates == [Fate.ACCEPTED, Fate.NO_ANSWER, Fate.NOT_SENT]
        wait_until(lambda: threading.active_count() <= before, RESPONSE_TIMEOUT_S)
        assert by_the_node(found.peer, paths[:1] + paths[2:]) == ["0000", "0000"]


def test_a_file_is_sent_as_what_its_data_set_says_it_is(tmp_path: Path) -> None:
    dataset = image()
    within = dataset.SOPInstanceUID
    path = save(dataset, tmp_path / "a.dcm")
    assert read_outgoing(path).sop_instance_uid == within
    other = within[:-1] + ("1" if within[-1] != "1" else "2")
    path.write_bytes(path.read_bytes().replace(within.encode(), other.encode(), 1))
    assert dcmread(path).file_meta.MediaStorageSOPInstanceUID == other
    assert read_outgoing(path).sop_instance_uid == within
