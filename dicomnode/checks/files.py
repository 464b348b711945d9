"""Checks of the keys and secrets that the configuration names; housekeeping does not start without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from dicomnode.assemble.qido import token_of
from dicomnode.checks.finding import Finding, wrong
from dicomnode.errors import NodeError
from dicomnode.records.verifying import own_key
from dicomnode.settings.node import Settings
from dicomnode.syslog.senders import sender_to


def check_files(settings: Settings) -> Iterator[Finding]:
    """What cannot be used, read as the node itself reads it."""
    uses: list[tuple[str, Callable[[], object]]] = [
        ("alerts", lambda: settings.alerts.webhook_token),
        ("alerts", lambda: settings.alerts.smtp_password),
        ("audit", partial(own_key, settings.audit.signing_key)),
        *((f"syslog {target.name}", partial(sender_to, target)) for target in settings.audit.syslog),
        *((f"peer {peer.name}", partial(token_of, peer)) for peer in settings.peer),
    ]
    for subject, use in uses:
        try:
            use()
        except NodeError as error:
            yield wrong(subject, str(error))
