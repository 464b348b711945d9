"""The fast path of C-STORE: what an accepted association carries, read without pynetdicom.

pynetdicom negotiates, and everything that is rare is left to it: as soon as something comes that is no plain
C-STORE or C-ECHO, it is given back, and pynetdicom goes on from there. What is here waits in the operating
system rather than by polling, and has every fragment read to where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dicomnode.wire.command_set import C_ECHO_RQ, Request, read_request, response
from dicomnode.wire.pdus import IS_COMMAND, IS_LAST, P_DATA_TF, CutOff, PduReader, p_data_header, values_in

SUCCESS = 0x0000


class Intrusion(Exception):
    """Something other than its data set came after a C-STORE request."""


class Parcel(Protocol):
    """An object on its way in."""

    def room(self, count: int) -> memoryview:
        """Where the next so many bytes of the data set belong."""

    def came(self, count: int) -> None:
        """They are there."""

    def deliver(self) -> int:
        """The data set is whole: the status to answer with. What is a success cannot be lost any more."""

    def drop(self) -> None:
        """The data set will not become whole."""


@dataclass(frozen=True)
class Context:
    """An accepted presentation context on which objects may come."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass
class _Open:
    """The object that is coming in."""

    context_id: int
    request: Request
    parcel: Parcel
    size_bytes: int = 0


class DataPhase:
    """What is said on one association, from its acceptance until something rare comes."""

    def __init__(
        self,
        reader: PduReader,
        send: Callable[[bytes], None],
        contexts: Mapping[int, Context],
        echo_contexts: frozenset[int],
        begin: Callable[[Request, Context], Parcel],
        answered: Callable[[Request, int], None],
    ) -> None:
        """`begin` opens a parcel for each C-STORE; `answered` is told of each answer and its status."""
        self._reader = reader
        self._send = send
        self._contexts = contexts
        self._echo_contexts = echo_contexts
        self._begin = begin
        self._answered = answered
        self._open: _Open | None = None

    def run(self) -> None:
        """Serve until something comes that is for others, which the reader then has again.

        Raises CutOff when the peer breaks a limit, Idle when it is silent too long, Intrusion when it breaks
        into an object of its own, OSError when it cannot be answered. Nothing half-taken is left behind.
        """
        try:
            while (head := self._reader.next_head()) is not None:
                if self._open is not None and head.fragment_bytes is not None:
                    if not self._take_fragment(head.control, head.fragment_bytes):
                        break
                    continue
                content = self._reader.content(head)
                if content is None:
                    break
                understood = self._take(content) if head.kind == P_DATA_TF else 0
                if understood < len(content) or not content:
                    self._reader.give_back(head.kind, content[understood:])
                    return
            self._reader.shut()
        finally:
            if self._open is not None:
                self._open.parcel.drop()

    def _take(self, content: memoryview) -> int:
        """Take the presentation data values of one P-DATA-TF; returns up to where they were understood."""
        at = 0
        for value in values_in(content):
            if not self._take_value(value.context_id, value.control, value.fragment):
                break
            at = value.end
        if at < len(content) and self._open is not None:
            raise Intrusion("no presentation data value")
        return at

    def _take_value(self, context_id: int, control: int, fragment: memoryview) -> bool:
        if self._open is None:
            return control & (IS_COMMAND | IS_LAST) == IS_COMMAND | IS_LAST and self._take_request(
                context_id, bytes(fragment)
            )
        self._room(self._open, control, len(fragment))[:] = fragment
        self._came(self._open, control, len(fragment))
        return True

    def _take_fragment(self, control: int, count: int) -> bool:
        """Have a fragment read to where it belongs; whether the peer let it end."""
        assert self._open is not None
        if not self._reader.read_fragment(self._room(self._open, control, count)):
            return False
        self._came(self._open, control, count)
        return True

    def _room(self, incoming: _Open, control: int, count: int) -> memoryview:
        """Where a fragment of the object that is coming in belongs."""
        if control & IS_COMMAND:
            raise Intrusion("a command within a data set")
        incoming.size_bytes += count + 2
        if incoming.size_bytes > self._reader.maximum_object_bytes:
            raise CutOff(f"an object of more than {self._reader.maximum_object_bytes} bytes")
        return incoming.parcel.room(count)

    def _came(self, incoming: _Open, control: int, count: int) -> None:
        incoming.parcel.came(count)
        if control & IS_LAST:
            self._open = None
            self._answer(incoming.context_id, incoming.request, incoming.parcel.deliver())

    def _take_request(self, context_id: int, encoded: bytes) -> bool:
        request = read_request(encoded)
        if request is None:
            return False
        if request.command_field == C_ECHO_RQ:
            if context_id not in self._echo_contexts:
                return False
            self._answer(context_id, request, SUCCESS)
            return True
        context = self._contexts.get(context_id)
        if context is None or context.sop_class_uid != request.sop_class_uid:
            return False
        self._open = _Open(context_id, request, self._begin(request, context))
        return True

    def _answer(self, context_id: int, request: Request, status: int) -> None:
        command_set = response(request, status)
        header = p_data_header(context_id, IS_COMMAND | IS_LAST, len(command_set))
        self._send(header + command_set)
        self._answered(request, status)
