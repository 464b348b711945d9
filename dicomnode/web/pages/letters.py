"""Dead letters: results that were given up, and jobs that failed."""

from __future__ import annotations

from sqlalchemy import func, select
from starlette.responses import Response

from dicomnode.records.states import DeliveryState, JobState
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow
from dicomnode.replay import replay_dead, replay_of_job, replay_one_delivery
from dicomnode.web.access import page
from dicomnode.web.site import Right, Visit

MOST_SHOWN = 200


def show_letters(visit: Visit) -> Response:
    """The newest of both, and how many there are."""
    dead, failed = DeliveryState.DEAD.value, JobState.FAILED.value
    with visit.site.database.snapshot() as session:
        deliveries = session.execute(
            select(DeliveryRow, ResultRow)
            .join(ResultRow, ResultRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
            .where(DeliveryRow.state == dead)
            .order_by(DeliveryRow.id.desc())
            .limit(MOST_SHOWN)
        ).all()
        counts = session.execute(
            select(DeliveryRow.destination, func.count())
            .where(DeliveryRow.state == dead)
            .group_by(DeliveryRow.destination)
        ).all()
        jobs = session.scalars(
            select(JobRow).where(JobRow.state == failed).order_by(JobRow.id.desc()).limit(MOST_SHOWN)
        ).all()
        job_count = session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state == failed))
    return visit.page(
        "letters.html",
        deliveries=deliveries,
        by_destination=sorted((str(name), int(count)) for name, count in counts),
        jobs=jobs,
        job_count=job_count or 0,
        most=MOST_SHOWN,
    )


def replay_delivery(visit: Visit) -> Response:
    """One result to one destination."""
    with visit.site.database.transaction() as session:
        done = replay_one_delivery(session, visit.audit, visit.number("number"))
    return visit.back_to("/letters", "replayed" if done else "nothing")


def replay_destination(visit: Visit) -> Response:
    """Everything that was given up for one destination."""
    with visit.site.database.transaction() as session:
        done = replay_dead(session, visit.audit, visit.site.settings.peers, visit.form.get("destination", ""))
    return visit.back_to("/letters", "replayed" if done else "nothing")


def replay_job(visit: Visit) -> Response:
    """One failed job."""
    with visit.site.database.transaction() as session:
        done = replay_of_job(session, visit.audit, visit.number("number"))
    return visit.back_to("/letters", "replayed" if done else "nothing")


ROUTES = (
    page("/letters", show_letters, Right.SEE),
    page("/letters/replay", replay_destination, Right.ACT, ("POST",)),
    page("/letters/deliveries/{number:int}/replay", replay_delivery, Right.ACT, ("POST",)),
    page("/letters/jobs/{number:int}/replay", replay_job, Right.ACT, ("POST",)),
)
