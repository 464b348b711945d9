"""Who did it: how a person is found among the actors of the trail.

Machines act by one word (`receiver`, `worker cuda:0`), people by how they came and their name:
`web m.keller`, `admin m.keller`, and behind sudo `admin root (logged in as m.keller)`.
"""

from __future__ import annotations

import re

from sqlalchemy import Select, select, text
from sqlalchemy.orm import Session

from dicomnode.records.tables import BUSY_ACTORS, SELDOM, WORKER, AuditRow

_PERSON = re.compile(r"(?:web|admin) (?P<account>.+?)(?: \(logged in as (?P<login>.+)\))?")


def names_of(actor: str) -> frozenset[str]:
    """Every name that somebody could ask for an actor by: the whole of it, its account, and its login."""
    person = _PERSON.fullmatch(actor)
    return frozenset(name for name in (actor, *(person.groups() if person else ())) if name)


def by_whom(session: Session, query: Select[AuditRow], who: str) -> Select[AuditRow]:
    """The events of `query` that a person caused, however they came, or an actor that the trail names so.

    Actors that do little are found along an index of their own; the busy ones are met soon anyway.
    """
    if who in BUSY_ACTORS or who.startswith(WORKER):
        return query.where(AuditRow.actor == who)
    seldom = session.scalars(select(AuditRow.actor).where(text(SELDOM)).distinct())
    return query.where(
        text(SELDOM), AuditRow.actor.in_([actor for actor in seldom if who in names_of(actor)])
    )
