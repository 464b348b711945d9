"""Takes the established phase of an association from pynetdicom, and hands back what is left of it.

The receiving twin of `deliver/line.py`. pynetdicom's (3.0.4) two threads poll the socket and a queue, a
millisecond each, and none of this can be replaced from outside. While `serve` runs, the thread that reads the
network waits before it looks at the socket, and the thread of the association runs `serve`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import structlog

from dicomnode.receive.data_phase import Intrusion
from dicomnode.wire.handover import DATA_TRANSFER, look_again
from dicomnode.wire.pdus import CutOff, Idle, PduReader

log = structlog.get_logger()


def take_over(
    association: Any, reader: PduReader, serve: Callable[[], None], cut: Callable[[str], None]
) -> None:
    """Have `serve` run as soon as the association stands; `cut` is told when a limit was broken."""
    provider = association.dul
    look, go_on_plainly = provider._is_transport_event, association._run_reactor
    handed_back = threading.Event()

    def look_when_it_is_our_turn() -> bool:
        if provider.state_machine.current_state == DATA_TRANSFER:
            handed_back.wait()  # the other thread may have come and gone before this one first looks
            return look_again(provider, reader, look)
        return bool(look())

    def run() -> None:
        try:
            must_abort = _serve(reader, serve, cut, provider._idle_timer.restart)
        finally:
            handed_back.set()
        if must_abort:
            association.abort()
        go_on_plainly()

    provider._is_transport_event = look_when_it_is_our_turn
    association._run_reactor = run


def _serve(
    reader: PduReader,
    serve: Callable[[], None],
    cut: Callable[[str], None],
    restart_idle_timer: Callable[[], None],
) -> bool:
    """Serve, and return whether the association must be aborted now."""
    try:
        serve()
    except Idle:
        return True
    except Intrusion as error:
        cut(str(error))
        return True
    except CutOff as error:
        cut(str(error))
        reader.shut()
    except OSError:  # the connection is lost
        reader.shut()
    except Exception:  # a bug: the peer must not wait for an answer that never comes
        log.exception("association_failed")
        return True
    finally:
        restart_idle_timer()
    return False
