"""What a receiver and the recorder of its journal say to each other, and how the recorder makes way.

The receiver sends orders as it acknowledges images; the recorder reports what is recorded.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from select import POLLIN, poll

from dicomnode.receive.journal import MOST_SEGMENTS, Place

ORDER = struct.Struct(">LBQ")
"""A segment, what to do, and the place in the segment that it is about."""
REPORT = struct.Struct(">QL")
"""How many orders are done since the beginning, and a segment that is free now (0: none)."""
MOST_AT_ONCE = 256
PAUSE_S = 0.05
"""A sender that is silent for so long does not need the processor and the disk for itself."""
LONGEST_S = 0.3
"""Rows are no later than this, however long images stream in."""
LOOK_INTERVAL_S = 0.01
MOST_FULL = MOST_SEGMENTS // 2
"""So many full segments are not waited with."""
CHUNK_BYTES = 65536


class Order(IntEnum):
    """What a recorder is told."""

    RECORD = 1
    RECORD_AGAIN = 2
    """It may have been recorded before the recorder died."""
    FREE = 3
    """A segment is full: what is in it must be on the disk elsewhere."""
    HURRY = 4
    """Somebody waits for what was ordered before; is not done itself, and never reported."""


Batch = list[tuple[Order, Place]]
"""Orders that are carried out together."""


def received(channel: socket.socket) -> bytes:
    """What comes next; nothing when the other end is gone."""
    try:
        return channel.recv(CHUNK_BYTES)
    except OSError:
        return b""


class Orders:
    """Orders as they come over a channel. While images stream in, they are gathered."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._readable = poll()
        self._readable.register(channel, POLLIN)
        self._content = bytearray()
        self._waiting: Batch = []
        self._in_a_hurry = False
        self._due = 0
        """So many of those that wait are carried out now; the others are gathered."""

    def batches(self) -> Iterator[Batch]:
        """What to do at once; at most one order to free a segment, which then is the last of its batch."""
        while self._waiting or self._hear(None):
            self._gather()
            self._due = len(self._waiting)
            while self._due:
                yield self._taken()
            self._in_a_hurry = False

    def _gather(self) -> None:
        """Wait while images stream in, there is room for more, and nobody waits."""
        started = time.monotonic()
        while not self._in_a_hurry and self._full_count() < MOST_FULL:
            left_s = started + LONGEST_S - time.monotonic()
            if left_s <= 0 or not self._hear(min(PAUSE_S, left_s)):
                break
            if not self._in_a_hurry:
                time.sleep(LOOK_INTERVAL_S)  # rather than wake for each image

    def _full_count(self) -> int:
        return sum(order is Order.FREE for order, _ in self._waiting)

    def _hear(self, timeout_s: float | None) -> bool:
        """Take what comes within that time; whether there was anything."""
        if not self._readable.poll(None if timeout_s is None else timeout_s * 1000):
            return False
        chunk = received(self._channel)
        self._content += chunk
        whole = len(self._content) - len(self._content) % ORDER.size
        for segment, order, offset in ORDER.iter_unpack(self._content[:whole]):
            if order == Order.HURRY:
                self._in_a_hurry = True
            else:
                self._waiting.append((Order(order), Place(segment, offset)))
        del self._content[:whole]
        return bool(chunk)

    def ahead(self) -> Batch:
        """The batch that comes next, without waiting for one. Where somebody waits, all that came is due."""
        self._hear(0.0)
        if self._in_a_hurry:
            self._due = len(self._waiting)
        return self._first()

    def is_up_to_date(self) -> bool:
        """Whether nothing waits, neither of what was heard of nor of what the receiver kept back so far."""
        if not self._waiting:
            self._hear(PAUSE_S)
            if self._in_a_hurry:
                self._due = len(self._waiting)
        return not self._waiting

    def _first(self) -> Batch:
        orders = [order for order, _ in self._waiting[: min(self._due, MOST_AT_ONCE)]]
        count = orders.index(Order.FREE) + 1 if Order.FREE in orders else len(orders)
        return self._waiting[:count]

    def _taken(self) -> Batch:
        """The first of those that are due."""
        taken = self._first()
        del self._waiting[: len(taken)]
        self._due -= len(taken)
        return taken
