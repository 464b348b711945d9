"""What becomes of the objects that come on the fast path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pynetdicom.sop_class import Verification

from dicomnode.receive.arrival import Arrival, Origin
from dicomnode.receive.associations import FOR_EVERYBODY, origin_of
from dicomnode.receive.data_phase import Context, DataPhase
from dicomnode.receive.file_meta import file_header
from dicomnode.receive.storing import Storing, Taking
from dicomnode.receive.visits import Visits
from dicomnode.wire.command_set import C_ECHO_RQ, Request
from dicomnode.wire.pdus import PduReader

SMALLEST_PDU_BYTES = 1024
"""A peer that takes less than a whole answer in one PDU is left to pynetdicom."""


class InMemory:
    """A parcel that is held in memory until it is whole."""

    def __init__(self, take: Callable[[bytes, str], int]) -> None:
        """`take` gets the content and its SHA-256."""
        self._take = take
        self._content = bytearray()
        self._digest = hashlib.sha256()

    def add(self, fragment: memoryview) -> None:
        """Keep a copy; digest it while the sender makes the next one."""
        self._content += fragment
        self._digest.update(fragment)

    def deliver(self) -> int:
        """Have it taken."""
        return self._take(bytes(self._content), self._digest.hexdigest())

    def drop(self) -> None:
        """Forget it."""
        self._content.clear()


class Reception:
    """Serves associations of one listener on the fast path."""

    def __init__(self, intake: Taking, storing: Storing, visits: Visits) -> None:
        self._intake = intake
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
            partial(self._begin, origin_of(association)),
            partial(self._count, association),
        ).run()

    def _begin(self, origin: Origin, request: Request, context: Context) -> InMemory:
        if request.move_originator == origin.called_ae_title:
            origin = replace(origin, asked_for=True)
        return InMemory(partial(self._take, origin, request, context))

    def _take(self, origin: Origin, request: Request, context: Context, encoded: bytes, sha256: str) -> int:
        arrival = Arrival(
            file_header=file_header(
                request.sop_class_uid, request.sop_instance_uid, context.transfer_syntax_uid
            ),
            encoded=encoded,
            sha256=sha256,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax_uid=context.transfer_syntax_uid,
            origin=origin,
        )
        return self._storing.answer(request.sop_instance_uid, origin, partial(self._intake.take, arrival))

    def _count(self, association: Any, request: Request, status: int) -> None:
        if request.command_field == C_ECHO_RQ:
            self._visits.count_echo(association)
        else:
            self._visits.count_store(association, status)
