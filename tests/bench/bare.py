"""A receiver that reads and answers and, if asked, writes: no receiver in Python can do less.

`python -m tests.bench.bare PORT [FOLDER]` takes whatever comes, looks at nothing and keeps no records. With a
folder each image is written and synchronised before it is answered, as the journal does it, but always over
the same few megabytes. Each association has a process of its own: none waits for another's interpreter.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import MaximumLengthNotification
from pynetdicom.sop_class import Verification

from dicomnode.receive.data_phase import SUCCESS, Context, DataPhase
from dicomnode.receive.draft import Draft, Pages
from dicomnode.receive.entries import on_pages
from dicomnode.receive.journal import PIECE_BYTES
from dicomnode.settings.network import ConnectionSettings, Limits
from dicomnode.wire.pdus import HEADER_BYTES, PduReader
from tests.bench.disk import opened_full_of_zeros

RULES = ConnectionSettings()
LIMITS = Limits(1, RULES.maximum_pdu_bytes, 2**30, RULES.idle_timeout_s)
FILE_BYTES = 32 * 2**20
MOST_FILES = 8
"""Associations at once that have a file of their own."""
A_RELEASE_RQ = 0x05
A_RELEASE_RP = bytes((0x06, 0, 0, 0, 0, 4, 0, 0, 0, 0))


class Disk:
    """A file that was full of zeros, and is written over and over past the cache."""

    def __init__(self, path: Path) -> None:
        self._descriptor = opened_full_of_zeros(path, FILE_BYTES)
        self._end = 0

    def write(self, pages: memoryview) -> None:
        """Write whole pages, somewhere."""
        if self._end + len(pages) > FILE_BYTES:
            self._end = 0
        self._end += os.pwrite(self._descriptor, pages, self._end)

    def sync(self) -> None:
        """What was written is on the disk."""
        os.fdatasync(self._descriptor)


class Taken:
    """An object on its way in, of which nobody wants to know anything."""

    def __init__(self, pages: Pages, disk: Disk | None, writer: ThreadPoolExecutor) -> None:
        self._pages = pages
        self._draft = Draft(pages, b"")
        self._disk = disk
        self._writer = writer
        self._writing: list[Future[None]] = []
        self._written_bytes = 0

    def room(self, size_bytes: int) -> memoryview:
        """Where the next so many bytes belong."""
        return self._draft.room(size_bytes)

    def came(self, size_bytes: int) -> None:
        """Begin to write each piece that is whole."""
        self._draft.came(size_bytes)
        if self._disk is not None and self._draft.size_bytes - self._written_bytes >= PIECE_BYTES:
            end = self._written_bytes + PIECE_BYTES
            piece = self._draft.file[self._written_bytes : end]
            self._writing.append(self._writer.submit(self._disk.write, piece))
            self._written_bytes = end

    def deliver(self) -> int:
        """Have it on the disk."""
        if self._disk is not None:
            for piece in self._writing:
                piece.result()
            self._disk.write(self._pages.view[self._written_bytes : on_pages(self._draft.size_bytes)])
            self._disk.sync()
        return SUCCESS

    def drop(self) -> None:
        """The sender has gone."""


def main() -> None:
    """Take associations until somebody ends this process."""
    port, folder = int(sys.argv[1]), sys.argv[2:]
    disks = [Disk(Path(folder[0]) / str(number)) for number in range(MOST_FILES if folder else 0)]
    listening = socket.create_server(("127.0.0.1", port), backlog=128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that have ended
    gc.freeze()
    for number in count():
        connection, _ = listening.accept()
        if os.fork() == 0:
            _serve(connection, disks[number % MOST_FILES] if disks else None)
            os._exit(0)
        connection.close()


def _serve(connection: socket.socket, disk: Disk | None) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = PduReader(connection, RULES)
    head = reader.receive(HEADER_BYTES)
    request = bytes(head + reader.receive(int.from_bytes(head[2:HEADER_BYTES], "big")))
    reader.admitted(LIMITS)
    answer, contexts = _accepted(request)
    connection.sendall(answer)
    pages, writer = Pages(), ThreadPoolExecutor(1)
    echo = frozenset(number for number, one in contexts.items() if one.sop_class_uid == Verification)
    DataPhase(
        reader,
        connection.sendall,
        contexts,
        echo,
        lambda _request, _context: Taken(pages, disk, writer),
        lambda _request, _status: None,
    ).run()
    if reader.receive(HEADER_BYTES)[:1] == bytes((A_RELEASE_RQ,)):
        connection.sendall(A_RELEASE_RP)


def _accepted(encoded: bytes) -> tuple[bytes, dict[int, Context]]:
    """An A-ASSOCIATE-AC to all that is proposed, and its contexts with the first syntax of each."""
    request, answer = A_ASSOCIATE_RQ(), A_ASSOCIATE_AC()
    request.decode(encoded)
    primitive = request.to_primitive()
    proposed = primitive.presentation_context_definition_list
    for context in proposed:
        context.result, context.transfer_syntax = 0, context.transfer_syntax[:1]
    primitive.presentation_context_definition_results_list = proposed
    primitive.result = 0
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            item.maximum_length_received = LIMITS.maximum_pdu_bytes
    answer.from_primitive(primitive)
    contexts = {c.context_id: Context(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in proposed}
    return answer.encode(), contexts


if __name__ == "__main__":
    main()
