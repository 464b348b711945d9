"""Checks of the peers: do they answer, do they take what they are to get, have they called us?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from sqlalchemy import select

from dicomnode.checks.finding import Finding, note, ok, wrong
from dicomnode.deliver.sender import accepted_syntaxes, echo
from dicomnode.errors import TransientError
from dicomnode.profiles import NEEDS
from dicomnode.receive.listener import Listener
from dicomnode.records.audit import Event
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import AuditRow
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool

CALLS = (Event.ASSOCIATION_ENDED.value, Event.INSTANCE_RECEIVED.value)
POLL_S = 0.5


def check_peer(settings: Settings, peer: PeerSettings) -> Iterator[Finding]:
    """A C-ECHO to it and, where results go there, whether it takes the forms that it is to get."""
    subject = f"peer {peer.name}"
    try:
        echo(settings.node.ae_title, peer)
        yield ok(subject, f"{peer.ae_title} answers at {peer.host}:{peer.port}")
        if any(peer.name in route.destinations for route in settings.route):
            yield _check_forms(settings, peer)
    except TransientError as error:
        yield wrong(subject, str(error))


def _check_forms(settings: Settings, peer: PeerSettings) -> Finding:
    """By association, without sending anything, as `dicomnode probe` asks."""
    forms = settings.forms_of(peer)
    classes = sorted({uid for form in forms for uid in NEEDS[form]})
    accepted = accepted_syntaxes(settings.node.ae_title, peer, classes)
    refused = [form for form in forms if not all(uid in accepted for uid in NEEDS[form])]
    if refused:
        return wrong(
            f"peer {peer.name}",
            f"does not take {', '.join(refused)}; `dicomnode probe {peer.name}` finds forms that it takes",
        )
    return ok(f"peer {peer.name}", f"takes what it is to get: {', '.join(forms)}")


def check_calls(settings: Settings, database: Database, listen_s: float) -> Iterator[Finding]:
    """Whether each peer that may send has called the node, by the audit; waits for calls if asked to.

    Nobody can make a peer call: send a C-ECHO from it meanwhile.
    """
    callers = [peer for peer in settings.peer if peer.may_send]
    since = utc_now() if listen_s > 0 else None
    if since is not None:
        _listen(settings, database, callers, since, listen_s)
    for peer in callers:
        yield _check_call(settings, database, peer, since)


def _listen(
    settings: Settings, database: Database, callers: list[PeerSettings], since: datetime, listen_s: float
) -> None:
    """Take calls, with a listener of our own where no node runs, until all have called or time is over."""
    spool = Spool(settings.spool)
    spool.prepare()
    listener = Listener(settings, database, spool)
    with suppress(OSError):  # the port is taken: a running node listens, and writes down who calls
        listener.start()
    try:
        deadline = time.monotonic() + listen_s
        while time.monotonic() < deadline and not all(_last(database, p, CALLS, since) for p in callers):
            time.sleep(POLL_S)
    finally:
        listener.stop()


def _check_call(
    settings: Settings, database: Database, peer: PeerSettings, since: datetime | None
) -> Finding:
    subject = f"peer {peer.name} to us"
    called = _last(database, peer, CALLS, since)
    refused = _last(database, peer, (Event.ASSOCIATION_REJECTED.value,), since)
    if refused is not None and (called is None or refused.id > called.id):
        return wrong(
            subject, f"was turned away at {refused.at:%Y-%m-%d %H:%M:%S} UTC: {refused.detail['reason']}"
        )
    if called is not None:
        return ok(subject, f"called last at {called.at:%Y-%m-%d %H:%M:%S} UTC")
    how = f"C-ECHO from {peer.ae_title} to {settings.node.ae_title} at port {settings.port_for(peer)}"
    if since is not None:
        return wrong(
            subject, f"has not called in the time given; check firewall and routing, then try a {how}"
        )
    return note(subject, f"has never called; try `dicomnode check --listen 60` and a {how}")


def _last(
    database: Database, peer: PeerSettings, events: tuple[str, ...], since: datetime | None
) -> AuditRow | None:
    """The newest of these events that tells of a peer."""
    query = select(AuditRow).where(AuditRow.peer == peer.ae_title.strip(), AuditRow.event.in_(events))
    if since is not None:
        query = query.where(AuditRow.at >= since)
    with database.snapshot() as session:
        return session.scalar(query.order_by(AuditRow.id.desc()).limit(1))
