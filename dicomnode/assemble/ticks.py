"""What recurs while studies come in: look, ask, fetch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dicomnode.assemble.assembly import Assembly
from dicomnode.assemble.retrieval import Retrieval
from dicomnode.receive.intake import Intake
from dicomnode.receive.pressure import DiskGauge
from dicomnode.receive.storing import Storing
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool

LOOK_S = 0.25
FETCH_S = 1.0

Asking = tuple[str, Callable[[], None]]
"""A name, and what is to be done when something was sent."""
Tick = tuple[str, Callable[[], None], float]
"""A name, what is to be done, and how often in seconds."""


def count_askers(settings: Settings, assembly: Assembly, close: Callable[[], None]) -> list[Asking]:
    """Asks each counting peer for what is due; `close` is called as soon as one has answered."""

    def ask(peer: PeerSettings) -> None:
        if assembly.ask_counts(peer):
            close()

    return [(f"count at {peer.name}", partial(ask, peer)) for peer in settings.peer if peer.count_instances]


def assembly_ticks(settings: Settings, database: Database, assembly: Assembly) -> list[Tick]:
    """What recurs while studies come in, whether anybody says something or not."""
    storing = _storing(settings, database)
    fetching = [peer for peer in settings.peer if peer.count_instances and peer.retrieve_missing != "no"]
    retrievals = [Retrieval(settings, database, assembly, storing, peer) for peer in fetching]
    return [
        ("look for required series", assembly.look_for_required, LOOK_S),
        *((f"fetch from {found.peer.name}", found.fetch_missing, FETCH_S) for found in retrievals),
    ]


def _storing(settings: Settings, database: Database) -> Storing:
    """What came by C-GET is taken like what came to the port."""
    spool, audit = Spool(settings.spool), Audit("receiver")
    gauge = DiskGauge(spool, settings.listener, database, audit)
    return Storing(Intake(spool, database, audit), gauge, database, audit)
