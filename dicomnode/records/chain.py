"""The chain of seals: every event carries the digest of itself and of the event before.

Events are sealed at the very end of their transaction. On PostgreSQL a lock then keeps other writers
out until the commit; taken last, it is held shortly, and no writer waits for anything while holding it.
SQLite has one writer at a time anyway.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Select, event, func, insert, select
from sqlalchemy.orm import Session

from dicomnode.logs import logging_role
from dicomnode.records.anchors import Anchor
from dicomnode.records.tables import AuditRow

GENESIS = "0" * 64
LOCK = 0x6175646974
"""Number of the advisory lock ("audit")."""
MOST_FAULTS = 100
_EVENTS = AuditRow.metadata.tables[AuditRow.__tablename__]
_PENDING = "events to be sealed"
_NEWEST = "number of the event before them"
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)

log = structlog.get_logger()


class Fact(NamedTuple):
    """One event, as `AuditRow` keeps it, before it is sealed."""

    at: datetime
    event: str
    actor: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    job_id: int | None
    detail: dict[str, Any]
    previous_sha256: str = ""


def append(session: Session, fact: Fact) -> None:
    """Seal and insert `fact` when the transaction of `session` is committed."""
    pending = session.info.get(_PENDING)
    if pending is None:
        pending = session.info[_PENDING] = []
        event.listen(session, "before_commit", _seal_pending)
        event.listen(session, "after_commit", _tell_the_log)
    pending.append(fact)


def _seal_pending(session: Session) -> None:
    session.flush()  # every other lock of the transaction is taken before the chain's
    newest = select(AuditRow.sha256, AuditRow.id).order_by(AuditRow.id.desc()).limit(1)
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(LOCK)))
        newest = _counting_on(newest)
    found = session.execute(newest).one_or_none()
    previous, session.info[_NEWEST] = found if found else (GENESIS, 0)
    rows = []
    for fact in session.info[_PENDING]:
        fact = fact._replace(previous_sha256=previous)
        previous = seal(fact)
        rows.append({**fact._asdict(), "sha256": previous})
    session.execute(insert(_EVENTS), rows)


def _counting_on(newest: Select[str, int]) -> Select[str, int]:
    """The same, and the next event gets the next number: PostgreSQL wastes those of transactions that ended
    without a commit. Only who holds the chain's lock may ask."""
    found = newest.subquery()
    numbers = func.pg_get_serial_sequence(AuditRow.__tablename__, AuditRow.id.key)
    return select(found.c.sha256, func.setval(numbers, found.c.id))


def _tell_the_log(session: Session) -> None:
    """The log names the events of the trail, so that lines of both can be joined."""
    sealed, session.info[_PENDING] = session.info[_PENDING], []
    if not logging_role():  # a command: its output is for a person
        return
    for number, fact in enumerate(sealed, session.info[_NEWEST] + 1):
        tell = log.debug if fact.event.startswith("instance_") else log.info
        ids = {key: getattr(fact, key) for key in ("study_instance_uid", "series_instance_uid",
                                                   "sop_instance_uid", "job_id")}  # fmt: skip
        tell("audited", audit_event=fact.event, event_id=number, **{k: v for k, v in ids.items() if v})


def seal(row: Any) -> str:
    """SHA-256 over everything an event says and the seal of the event before it."""
    content = [
        row.at.isoformat(),
        row.event,
        row.actor,
        row.study_instance_uid,
        row.series_instance_uid,
        row.sop_instance_uid,
        row.job_id,
        row.detail,
        row.previous_sha256,
    ]
    canonical = _canonical.encode(content)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Damage(StrEnum):
    """What can be wrong with a trail."""

    CHANGED = "changed"
    """An event does not fit its own seal."""
    UNLINKED = "unlinked"
    """An event does not follow the one before it: some between were removed, or that one was rewritten."""
    CUT_OFF = "cut_off"
    """The trail ends before an event that an anchor knows."""
    REWRITTEN = "rewritten"
    """The seals fit each other, but not an anchor."""
    ANCHOR = "anchor"
    """The anchors themselves do not hold."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where."""

    damage: Damage
    told: str
    event_id: int | None = None
    at: datetime | None = None
    anchor: str | None = None
    """Day of the anchor that shows it."""


@dataclass(frozen=True)
class ChainCheck:
    """What a walk along the whole trail found."""

    event_count: int
    last_id: int | None
    last_at: datetime | None
    last_sha256: str
    anchor_count: int
    faults: tuple[Fault, ...]
    """The first 100."""

    @property
    def broken_at(self) -> int | None:
        """Id of the first event where the trail does not hold."""
        return next((fault.event_id for fault in self.faults if fault.event_id is not None), None)


def verify_chain(
    session: Session, anchors: Iterable[Anchor] = (), progress: Callable[[int], None] = lambda _: None
) -> ChainCheck:
    """Recompute every seal from the first event on, and hold the trail against `anchors`.

    `progress` is told the number of events so far, every thousand.
    """
    known = sorted(anchors, key=lambda anchor: (anchor.last_id, anchor.event_count))
    walk = _Walk(deque(known))
    for row in session.execute(
        select(*AuditRow.__table__.columns).order_by(AuditRow.id).execution_options(yield_per=1000)
    ):
        walk.step(row)
        if walk.count % 1000 == 0:
            progress(walk.count)
    walk.faults.extend(walk.beyond_the_end())
    return ChainCheck(
        walk.count, walk.last_id, walk.last_at, walk.previous, len(known), tuple(walk.faults[:MOST_FAULTS])
    )


@dataclass
class _Walk:
    ahead: deque[Anchor]
    previous: str = GENESIS
    count: int = 0
    last_id: int | None = None
    last_at: datetime | None = None
    held: Anchor | None = None
    """The newest anchor that the trail fits."""

    def __post_init__(self) -> None:
        self.faults: list[Fault] = []

    def step(self, row: Any) -> None:
        """Go on to the next event."""
        self.count += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.extend(self._at_event(row))
            self.faults.extend(self._at_anchors(row))
        self.previous, self.last_id, self.last_at = row.sha256, row.id, row.at

    def _at_event(self, row: Any) -> Iterator[Fault]:
        if row.sha256 != seal(row):
            told = f"event {row.id} ({row.event} of {_time(row.at)}) was changed: it does not fit its seal"
            yield Fault(Damage.CHANGED, told, row.id, row.at)
        elif row.previous_sha256 != self.previous:
            before = f"event {self.last_id} of {_time(self.last_at)}" if self.last_at else "the beginning"
            told = (
                f"event {row.id} ({row.event} of {_time(row.at)}) does not follow {before}: events between "
                "were removed, or the earlier one was rewritten with its seal"
            )
            yield Fault(Damage.UNLINKED, told, row.id, row.at)

    def _at_anchors(self, row: Any) -> Iterator[Fault]:
        while self.ahead and self.ahead[0].last_id <= row.id:
            anchor = self.ahead.popleft()
            fits = (anchor.last_id, anchor.last_sha256) == (row.id, row.sha256)
            if fits and anchor.event_count == self.count:
                self.held = anchor
                continue
            yield self._against(anchor, Damage.REWRITTEN, "the trail has another event there now")

    def beyond_the_end(self) -> Iterator[Fault]:
        """The anchors that know of events behind the last one."""
        for anchor in self.ahead:
            end = f"ends with event {self.last_id} of {_time(self.last_at)}" if self.last_at else "is empty"
            yield self._against(anchor, Damage.CUT_OFF, f"the trail {end}")

    def _against(self, anchor: Anchor, damage: Damage, told: str) -> Fault:
        since = f"event {self.held.last_id} (anchored on {self.held.day})" if self.held else "the beginning"
        return Fault(
            damage,
            f"the anchor of {anchor.day} counts {anchor.event_count} events up to event {anchor.last_id}, "
            f"but {told}; nothing between {since} and {_time(anchor.written_at)} can be trusted",
            anchor.last_id,
            self.last_at,
            anchor.day.isoformat(),
        )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
