"""Keeps pynetdicom's reactor thread parked while we send, so that it cannot take our responses.

In pynetdicom 3.0.4 `send_c_store` clears a checkpoint and then waits for the flag `_is_paused`; the
reactor may already have passed the checkpoint with the flag still set, and takes the C-STORE response
off the queue ("Received unexpected C-STORE service message"). The sender then waits for nothing until
its time-out. Under load that happens about once in a thousand stores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pynetdicom.association import Association

PARKING_TIMEOUT_S = 5.0


class _Gate(threading.Event):
    """An event that tells when a thread is blocked in it, and can be locked shut."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = threading.Event()
        self.shut = False
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        """As Event.wait, but `blocked` is set as soon as this will not return at once."""
        if self.is_set():
            return True
        self.blocked.set()
        return super().wait(timeout)

    def set(self) -> None:
        """As Event.set, but without effect while shut."""
        if not self.shut:
            self.blocked.clear()
            super().set()


@contextmanager
def parked_reactor(association: Association) -> Iterator[None]:
    """Within this block the reactor of a requesting association does nothing at all."""
    gate = _Gate()
    previous, association._reactor_checkpoint = association._reactor_checkpoint, gate
    gate.shut = True
    gate.clear()
    previous.set()
    gate.blocked.wait(PARKING_TIMEOUT_S)
    try:
        yield
    finally:
        gate.shut = False
        gate.set()
