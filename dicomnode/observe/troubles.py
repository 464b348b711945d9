"""What is worth an administrator's attention at this moment, in words without patient data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.observe.figures import Figures, Queue
from dicomnode.observe.machine import free_bytes
from dicomnode.observe.trail import latest_check
from dicomnode.records.audit import Event
from dicomnode.records.queries import outage
from dicomnode.records.states import DeliveryState
from dicomnode.records.tables import AuditRow, DestinationRow
from dicomnode.records.watch_tables import AlertRow, PeerCheckRow
from dicomnode.settings.node import Settings

DEATHS = 3
DEATHS_WITHIN_S = 600.0
UNKNOWN_PEER_TOLD = timedelta(days=1)
"""For so long an alert tells of what was given up for a peer that is not configured any more."""
LEFT_OUT_WITHIN_S = 86400.0


class Kind(StrEnum):
    """Every kind of trouble that is told."""

    DEAD_LETTER = "dead_letter"
    QUEUE_AGE = "queue_age"
    DISK = "disk"
    PEER_DOWN = "peer_down"
    DESTINATION_LOST = "destination_lost"
    CHAIN_BROKEN = "chain_broken"
    WORKER_DYING = "worker_dying"
    LEFT_OUT = "left_out"


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong now. Kind and subject name it; the text may change while it lasts."""

    kind: Kind
    subject: str
    """A peer, a queue, a process, or empty."""
    text: str


def find_troubles(session: Session, settings: Settings, figures: Figures, now: datetime) -> list[Trouble]:
    """All that is wrong; of the audit trail, what its last check found."""
    return [
        *_dead_letters(session, settings, figures, now),
        *_old_queues(settings, figures, now),
        *_full_disk(settings),
        *_peers_down(session, settings, now),
        *_lost_destinations(session, settings),
        *_dying_workers(session, now),
        *_left_out(session, settings, now),
        *_broken_chain(session),
    ]


def open_alerts(session: Session) -> list[AlertRow]:
    """Alerts that have begun and not ended, the oldest first."""
    return list(session.scalars(select(AlertRow).where(AlertRow.ended_at.is_(None)).order_by(AlertRow.id)))


def _dead_letters(session: Session, settings: Settings, figures: Figures, now: datetime) -> Iterator[Trouble]:
    for name, destination in figures.destinations.items():
        count = destination.states[DeliveryState.DEAD]
        told = f"{count} result(s) were given up for {name}"
        if count and name in settings.peers:
            yield Trouble(Kind.DEAD_LETTER, name, f"{told}; `dicomnode replay --dead` sends them again")
        elif count and _given_up_recently(session, name, now):
            told = f"{told}, which is no configured peer any more; if they are wanted, configure it again"
            yield Trouble(Kind.DEAD_LETTER, name, f"{told} and `dicomnode replay --dead` sends them")


def _given_up_recently(session: Session, destination: str, now: datetime) -> bool:
    query = select(AuditRow.id).where(
        AuditRow.peer == destination,
        AuditRow.event == Event.DELIVERY_DEAD.value,
        AuditRow.at >= now - UNKNOWN_PEER_TOLD,
    )
    return session.scalar(query.limit(1)) is not None


def _old_queues(settings: Settings, figures: Figures, now: datetime) -> Iterator[Trouble]:
    limit_s = settings.alerts.queue_age_s
    limits_s = {
        Queue.RECEIVING_STUDIES: settings.assembly.deadline_s + limit_s,
        Queue.QUEUED_JOBS: limit_s,
        Queue.WAITING_DELIVERIES: limit_s,
    }
    for queue, allowed_s in limits_s.items():
        age_s = figures.age_s(queue, now)
        if age_s > allowed_s:
            yield Trouble(
                Kind.QUEUE_AGE,
                queue.value,
                f"the oldest of the {queue.value.replace('_', ' ')} has waited for {age_s / 60:.0f} min "
                f"(limit {allowed_s / 60:.0f} min); `dicomnode status` shows what stands still",
            )


def _full_disk(settings: Settings) -> Iterator[Trouble]:
    free_gb, wanted_gb = free_bytes(settings.spool) / 1e9, settings.alerts.minimum_free_gb
    if free_gb < wanted_gb:
        yield Trouble(
            Kind.DISK,
            "",
            f"{free_gb:.1f} GB are free on the disk of the spool (limit {wanted_gb:g} GB); below "
            f"{settings.listener.minimum_free_gb:g} GB nothing more is taken",
        )


def _peers_down(session: Session, settings: Settings, now: datetime) -> Iterator[Trouble]:
    since = now - timedelta(seconds=settings.alerts.peer_down_s)
    down = select(PeerCheckRow).where(PeerCheckRow.failing_since <= since).order_by(PeerCheckRow.peer)
    for row in session.scalars(down):
        if row.peer in settings.peers:
            yield Trouble(
                Kind.PEER_DOWN,
                row.peer,
                f"{row.problem}, since {row.failing_since:%Y-%m-%d %H:%M} UTC; results wait until it is back",
            )


def _lost_destinations(session: Session, settings: Settings) -> Iterator[Trouble]:
    lost = select(DestinationRow).where(DestinationRow.lost_at.is_not(None)).order_by(DestinationRow.name)
    for row in session.scalars(lost):
        if row.name in settings.peers:
            yield Trouble(Kind.DESTINATION_LOST, row.name, outage(row))


def _dying_workers(session: Session, now: datetime) -> Iterator[Trouble]:
    died = (Event.JOB_RECOVERED.value, Event.PROCESS_DIED.value)
    recently = now - timedelta(seconds=DEATHS_WITHIN_S)
    rows = session.execute(
        select(AuditRow.event, func.count())
        .where(AuditRow.event.in_(died), AuditRow.at >= recently)
        .group_by(AuditRow.event)
    )
    count = max((count for _, count in rows), default=0)  # a worker's death may be told by both
    if count >= DEATHS:
        yield Trouble(
            Kind.WORKER_DYING,
            "",
            f"processes died or lost their job {count} times within {DEATHS_WITHIN_S / 60:.0f} min; "
            "`dicomnode audit list --event process_died` and the log say which",
        )


def _left_out(session: Session, settings: Settings, now: datetime) -> Iterator[Trouble]:
    """By destination: it gets nothing that could fail, so no dead letter tells of it."""
    rows = session.scalars(
        select(AuditRow.detail).where(
            AuditRow.event == Event.RESULT_LEFT_OUT.value,
            AuditRow.at >= now - timedelta(seconds=LEFT_OUT_WITHIN_S),
        )
    )
    counts = Counter((name, detail["kind"]) for detail in rows for name in detail["destinations"])
    for name in sorted({name for name, _ in counts} & set(settings.peers)):
        kinds = ", ".join(f"{count} {kind}" for (who, kind), count in sorted(counts.items()) if who == name)
        yield Trouble(
            Kind.LEFT_OUT,
            name,
            f"what could not be made for {name} within {LEFT_OUT_WITHIN_S / 3600:.0f} h: {kinds}; "
            "`dicomnode audit list --event result_left_out` names the studies, the log says why",
        )


def _broken_chain(session: Session) -> Iterator[Trouble]:
    latest = latest_check(session)
    if latest is not None and latest.detail["fault_count"]:
        yield Trouble(
            Kind.CHAIN_BROKEN,
            "",
            f"the check of the audit trail on {latest.at:%Y-%m-%d %H:%M} UTC found "
            f"{latest.detail['fault_count']} fault(s); `dicomnode audit verify` says where",
        )
