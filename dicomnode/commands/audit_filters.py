"""Which events somebody asks for: the options that `audit list` and `audit export` share."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated

import typer

from dicomnode.records.audit import Event
from dicomnode.records.db import utc_now
from dicomnode.records.events import OUTCOMES

AGO = re.compile(r"(\d+)(min|h|d)")
UNITS = {"min": "minutes", "h": "hours", "d": "days"}


def _moment(text: str) -> datetime:
    """A time as people type it: 2h ago, or ISO 8601, local where it names no offset."""
    ago = AGO.fullmatch(text.strip())
    try:
        if ago:
            return utc_now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-03-01, '2026-03-01 14:30', or 30min, 2h, 7d for so long ago"
        ) from error


Kinds = Annotated[list[Event] | None, typer.Option("--event", help="Only this kind. Repeatable.")]
Moment = Annotated[datetime | None, typer.Option(parser=_moment, metavar="TIME")]
Peer = Annotated[str | None, typer.Option(help="AE title of a sender, or name of a destination.")]
Who = Annotated[
    str | None,
    typer.Option(help="Who did it: a person, by web page or command; or receiver, delivery, ..."),
]
OutcomeName = Annotated[str | None, typer.Option(help=f"One of: {', '.join(OUTCOMES)}.")]
Model = Annotated[str | None, typer.Option(help="Everything that jobs of this model did.")]


def kinds_of(events: list[Event] | None, outcome: str | None) -> frozenset[Event]:
    """The events to look for; all when nothing is said."""
    if outcome is None:
        return frozenset(events or ())
    if outcome not in OUTCOMES:
        raise typer.BadParameter(f"{outcome!r} is no outcome; known: {', '.join(OUTCOMES)}")
    kinds = OUTCOMES[outcome] & frozenset(events or Event)
    if not kinds:
        raise typer.BadParameter(f"no event of this kind has the outcome {outcome!r}")
    return kinds
