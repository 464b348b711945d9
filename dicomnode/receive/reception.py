"""What becomes of the objects that come on the fast path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pynetdicom.sop_class import Verification

from dicomnode.receive.acknowledging import Acknowledging
from dicomnode.receive.arrival import Arrival, Origin
from dicomnode.receive.associations import FOR_EVERYBODY, origin_of
from dicomnode.receive.data_phase import Context, DataPhase
from dicomnode.receive.draft import Draft, Pages
from dicomnode.receive.file_meta import file_header
from dicomnode.receive.journal import PIECE_BYTES, Ahead
from dicomnode.receive.storing import Storing
from dicomnode.receive.visits import Visits
from dicomnode.wire.command_set import C_ECHO_RQ, Request
from dicomnode.wire.pdus import PduReader

SMALLEST_PDU_BYTES = 1024
"""A peer that takes less than a whole answer in one PDU is left to pynetdicom."""


class Incoming:
    """A parcel of which large pieces are written while the rest still arrives."""

    def __init__(
        self,
        draft: Draft,
        write_ahead: Callable[[Draft, Ahead], None],
        forget: Callable[[Ahead], None],
        take: Callable[[Draft, Ahead], int],
    ) -> None:
        self._draft = draft
        self._ahead = Ahead()
        self._write_ahead = write_ahead
        self._forget = forget
        self._take = take

    def room(self, count: int) -> memoryview:
        """Where the next bytes belong."""
        return self._draft.room(count)

    def came(self, count: int) -> None:
        """Write what there is while the sender makes the next fragment."""
        self._draft.came(count)
        if self._draft.size_bytes - self._ahead.size_bytes >= PIECE_BYTES:
            self._write_ahead(self._draft, self._ahead)

    def deliver(self) -> int:
        """Have it taken."""
        try:
            return self._take(self._draft, self._ahead)
        finally:
            self._forget(self._ahead)

    def drop(self) -> None:
        """Forget it."""
        self._forget(self._ahead)


class Reception:
    """Serves associations of one listener on the fast path."""

    def __init__(self, acknowledging: Acknowledging, storing: Storing, visits: Visits) -> None:
        self._acknowledging = acknowledging
        self._storing = storing
        self._visits = visits

    def serve(self, association: Any, reader: PduReader) -> None:
        """Serve one established association, as long as what comes is plain; see `DataPhase.run`."""
        if 0 < association.requestor.maximum_length < SMALLEST_PDU_BYTES:
            return
        accepted = association.accepted_contexts
        DataPhase(
            reader,
            association.dul.socket.socket.sendall,
            {
                context.context_id: Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for context in accepted
                if context.as_scp and context.abstract_syntax not in FOR_EVERYBODY
            },
            frozenset(c.context_id for c in accepted if c.abstract_syntax == Verification),
            partial(self._begin, origin_of(association), Pages()),
            partial(self._count, association),
        ).run()

    def _begin(self, origin: Origin, pages: Pages, request: Request, context: Context) -> Incoming:
        if request.move_originator == origin.called_ae_title:
            origin = replace(origin, asked_for=True)
        header = file_header(request.sop_class_uid, request.sop_instance_uid, context.transfer_syntax_uid)
        return Incoming(
            Draft(pages, header),
            partial(self._acknowledging.write_ahead, request.sop_instance_uid),
            self._acknowledging.forget,
            partial(self._take, origin, request, context, header),
        )

    def _take(
        self, origin: Origin, request: Request, context: Context, header: bytes, draft: Draft, ahead: Ahead
    ) -> int:
        arrival = Arrival(
            file_header=header,
            encoded=draft.encoded,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax_uid=context.transfer_syntax_uid,
            origin=origin,
        )
        return self._storing.answer(
            request.sop_instance_uid, origin, partial(self._acknowledging.take, arrival, draft, ahead)
        )

    def _count(self, association: Any, request: Request, status: int) -> None:
        if request.command_field == C_ECHO_RQ:
            self._visits.count_echo(association)
        else:
            self._visits.count_store(association, status)
