"""Which versions of a routed model look at a series: the live one, and candidates when there is time."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import utc_now
from dicomnode.records.standing import WORKING_STATES, enrol, limit, missing_live, state_here
from dicomnode.records.states import JobState
from dicomnode.records.tables import JobRow
from dicomnode.settings.node import ModelSettings, RouteSettings, Settings
from dicomnode.study import Series
from dicomnode.urgency import rank
from dicomnode.work.orders import Order, create_job
from inference.bundle import ModelBundle, ModelState
from inference.registry import Registry


@dataclass(frozen=True, eq=False)
class Request:
    """One series on a route, whichever versions of its model will look at it."""

    series: Series
    generation: int
    route: RouteSettings
    priority: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Versions:
    """Makes the jobs of one routed series."""

    settings: Settings
    registry: Registry
    audit: Audit

    def make_jobs(self, session: Session, request: Request) -> tuple[bool, str]:
        """Returns whether any version looks at the series, and in words what comes of it.

        Raises PermanentError when the bundle of a model that may be live is missing.
        """
        name = request.route.model
        self.registry.refresh()
        bundles = self.registry.versions(name)
        missing = missing_live(session, self.registry, name)
        if not bundles and not missing:
            missing = [f"no usable model bundle is called {name!r} in {self.registry.folder}"]
        if missing and limit(self.settings.models, name) is ModelState.LIVE:
            raise PermanentError(
                f"{missing[0]}; restore it, or promote another version, and replay the study"
            )
        if not bundles:
            return False, f"but {missing[0]}"
        enrol(session, self.audit, self.settings.models, bundles)
        states = {b.digest: state_here(session, self.settings.models, b) for b in bundles}
        working = [b for b in bundles if states[b.digest] in WORKING_STATES]
        if not working:
            is_what = " and ".join(sorted(set(states.values())))
            return False, "; ".join([f"but model {name} is {is_what}", *missing])
        working.sort(key=lambda b: states[b.digest] is not ModelState.LIVE)
        outcomes = [(False, told) for told in missing]
        for bundle in working:
            order = self._order(request, bundle, send=states[bundle.digest] is ModelState.LIVE)
            outcomes.append(self._make_job(session, order))
        return any(made for made, _ in outcomes), "; ".join(told for _, told in outcomes)

    def _order(self, request: Request, bundle: ModelBundle, send: bool) -> Order:
        return Order(
            series=request.series,
            generation=request.generation,
            route=request.route,
            bundle=bundle,
            send=send,
            priority=request.priority,
            ranked_at=rank(utc_now(), request.priority, self.settings.priority),
            notes=request.notes,
            wanted=self.settings.wanted,
        )

    def _make_job(self, session: Session, order: Order) -> tuple[bool, str]:
        card = order.bundle.card
        who = "" if order.send else f"in shadow {card.name} {card.version}: "
        reason = None if order.send else too_busy(session, self.settings.models)
        if reason is not None:
            self._skip(session, order, reason)
            return False, f"{who}skipped, {reason}"
        job, new = create_job(session, self.audit, order)
        return True, who + (f"job {job.id}" if new else f"unchanged, so job {job.id} ({job.state}) stands")

    def _skip(self, session: Session, order: Order, reason: str) -> None:
        self.audit.record(
            session,
            Event.SHADOW_SKIPPED,
            Subject(order.series.study_instance_uid, order.series.series_instance_uid),
            reason=reason,
            model=order.bundle.card.name,
            model_version=order.bundle.card.version,
            model_digest=order.bundle.digest,
        )


def too_busy(session: Session, rules: ModelSettings) -> str | None:
    """Why no candidate may look at one more series now; None when one may."""
    counted = session.execute(
        select(JobRow.shadow, func.count())
        .where(JobRow.state == JobState.QUEUED.value)
        .group_by(JobRow.shadow)
    )
    waiting = {shadow: count for shadow, count in counted}
    if waiting.get(True, 0) >= rules.shadow_backlog:
        return f"{waiting.get(True, 0)} shadow jobs wait already"
    if waiting.get(False, 0) >= rules.shadow_load:
        return f"{waiting[False]} other jobs wait"
    return None
