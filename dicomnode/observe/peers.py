"""Whether the destinations answer: a C-ECHO to each from time to time, remembered in the database."""

from __future__ import annotations

from sqlalchemy import delete

from dicomnode.deliver.sender import echo
from dicomnode.errors import TransientError
from dicomnode.records.db import Database, utc_now
from dicomnode.records.watch_tables import PeerCheckRow
from dicomnode.settings.node import PeerSettings, Settings


def watched_peers(settings: Settings) -> list[PeerSettings]:
    """Peers that the node itself calls: destinations, and those that it asks for their counts."""
    called = {name for route in settings.route for name in route.destinations}
    return [peer for peer in settings.peer if peer.name in called or peer.count_instances]


def forget_others(settings: Settings, database: Database) -> None:
    """Peers that are no longer called are neither up nor down."""
    names = [peer.name for peer in watched_peers(settings)]
    with database.transaction() as session:
        session.execute(delete(PeerCheckRow).where(PeerCheckRow.peer.not_in(names)))


def check_peer(settings: Settings, database: Database, peer: PeerSettings) -> None:
    """Send a C-ECHO and write down how it ended."""
    problem = None
    try:
        echo(settings.node.ae_title, peer)
    except TransientError as error:
        problem = str(error)
    now = utc_now()
    with database.transaction() as session:
        row = session.get(PeerCheckRow, peer.name)
        if row is None:
            row = PeerCheckRow(peer=peer.name, checked_at=now)
            session.add(row)
        row.checked_at, row.problem = now, problem
        if problem is None:
            row.answered_at, row.failing_since = now, None
        else:
            row.failing_since = row.failing_since or now
