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
ASK_S = 0.1
FETCH_S = 1.0

Tick = tuple[str, Callable[[], None], float]
"""A name, what is to be done, and how often in seconds."""


def assembly_ticks(
    settings: Settings, database: Database, assembly: Assembly, close: Callable[[], None]
) -> list[Tick]:
    """The ticks of `assembly`, one for each peer. `close` is called as soon as a peer has answered."""

    def ask(peer: PeerSettings) -> None:
        if assembly.ask_counts(peer):
            close()

    storing = _storing(settings, database)
    counting = [peer for peer in settings.peer if peer.count_instances]
    fetching = [peer for peer in counting if peer.retrieve_missing != "no"]
    retrievals = [Retrieval(settings, database, assembly, storing, peer) for peer in fetching]
    return [
        ("look for required series", assembly.look_for_required, LOOK_S),
        *((f"count at {peer.name}", partial(ask, peer), ASK_S) for peer in counting),
        *((f"fetch from {found.peer.name}", found.fetch_missing, FETCH_S) for found in retrievals),
    ]


def _storing(settings: Settings, database: Database) -> Storing:
    """What came by C-GET is taken like what came to the port."""
    spool, audit = Spool(settings.spool), Audit("receiver")
    gauge = DiskGauge(spool, settings.listener, database, audit)
    return Storing(Intake(spool, database, audit), gauge, database, audit)
