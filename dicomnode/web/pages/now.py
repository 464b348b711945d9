"""What happens right now, problems first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from dicomnode.observe.figures import Figures, Queue, read_figures
from dicomnode.observe.machine import free_bytes, gpu_memory
from dicomnode.observe.troubles import find_troubles, open_alerts
from dicomnode.processes import workers
from dicomnode.records.audit import Event
from dicomnode.records.db import utc_now
from dicomnode.records.queries import held_studies
from dicomnode.records.states import DeliveryState, JobState, StudyState
from dicomnode.records.tables import AuditRow, DeliveryRow, DestinationRow, JobRow, StudyRow
from dicomnode.records.watch_tables import PeerCheckRow
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.web.access import page
from dicomnode.web.site import Right, Visit

UNDER_WAY = (DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.STORED)
PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True)
class Throughput:
    """What was finished in one period."""

    studies: int
    jobs: int
    failed: int
    deliveries: int


@dataclass(frozen=True)
class PeerHealth:
    """One peer, both ways."""

    peer: PeerSettings
    check: PeerCheckRow | None
    breaker: DestinationRow | None
    last_received_at: datetime | None
    last_delivered_at: datetime | None
    waiting: int
    dead: int


def show_now(visit: Visit) -> Response:
    """The first page."""
    settings, now = visit.site.settings, utc_now()
    destinations = frozenset(name for route in settings.route for name in route.destinations)
    with visit.site.database.snapshot() as session:
        figures = read_figures(session, destinations, finished=False)
        return visit.page(
            "now.html",
            problems=list(_problems(session, settings, figures, now)),
            figures=figures,
            ages={queue: figures.age_s(queue, now) for queue in Queue},
            throughput={name: _throughput(session, settings, now - ago) for name, ago in PERIODS.items()},
            peers=[_peer(session, figures, peer) for peer in settings.peer],
            running=session.scalars(
                select(JobRow).where(JobRow.state == JobState.RUNNING.value).order_by(JobRow.id)
            ).all(),
            devices=[" ".join(which[1::2]) for which in workers(settings)],
            gpus=gpu_memory(),
            free_bytes=free_bytes(settings.spool),
            minimum_free_gb=settings.listener.minimum_free_gb,
            verified=_last(session, Event.AUDIT_VERIFIED),
            anchored=_last(session, Event.ANCHOR_WRITTEN),
            may_read_audit=visit.visitor.may(Right.READ_AUDIT),
        )


def _problems(session: Session, settings: Settings, figures: Figures, now: datetime) -> dict[str, None]:
    """Sentences, each once: what is wrong, what was told and not yet as ended, what waits for somebody."""
    troubles = find_troubles(session, settings, figures, now)
    found = [trouble.text for trouble in troubles]
    known = {(trouble.kind.value, trouble.subject) for trouble in troubles}
    found += [f"{a.text} (over by now)" for a in open_alerts(session) if (a.kind, a.subject) not in known]
    parked, failed = figures.studies[StudyState.PARKED], figures.jobs[JobState.FAILED]
    if parked:
        found.append(f"{_counted(parked, 'study is', 'studies are')} parked; the page of each says why")
    for reason, count in held_studies(session).items():
        found.append(f"{_counted(count, 'study waits', 'studies wait')} before routing: {reason}")
    if failed:
        found.append(f"{_counted(failed, 'job has', 'jobs have')} failed and may be replayed")
    verified = _last(session, Event.AUDIT_VERIFIED)
    if verified is not None and verified.detail["fault_count"]:
        count = verified.detail["fault_count"]
        found.append(f"the audit trail did not hold when it was last checked: {count} faults")
    return dict.fromkeys(found)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _throughput(session: Session, settings: Settings, since: datetime) -> Throughput:
    # Counted here: SQLite would read every job there ever was to group them.
    jobs = Counter(session.scalars(select(JobRow.state).where(JobRow.finished_at >= since)))
    delivered = session.scalar(
        select(func.count())
        .select_from(DeliveryRow)
        .where(DeliveryRow.destination.in_(settings.peers), DeliveryRow.delivered_at >= since)
    )
    studies = session.scalar(
        select(func.count()).select_from(StudyRow).where(StudyRow.last_received_at >= since)
    )
    return Throughput(studies or 0, jobs[JobState.SUCCEEDED], jobs[JobState.FAILED], delivered or 0)


def _peer(session: Session, figures: Figures, peer: PeerSettings) -> PeerHealth:
    last_received = session.scalar(
        select(func.max(StudyRow.last_received_at)).where(StudyRow.calling_ae_title == peer.ae_title.strip())
    )
    destination = figures.destinations.get(peer.name)
    states = destination.states if destination else {}
    return PeerHealth(
        peer,
        session.get(PeerCheckRow, peer.name),
        session.get(DestinationRow, peer.name),
        last_received if peer.may_send else None,
        destination.last_success if destination else None,
        sum(count for state, count in states.items() if state in UNDER_WAY),
        sum(count for state, count in states.items() if state is DeliveryState.DEAD),
    )


def _last(session: Session, event: Event) -> AuditRow | None:
    return session.scalar(
        select(AuditRow)
        .where(AuditRow.event == event.value)
        .order_by(AuditRow.at.desc(), AuditRow.id.desc())
        .limit(1)
    )


ROUTES = (page("/", show_now, Right.SEE),)
