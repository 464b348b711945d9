"""Turns complete studies into decisions and jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Row, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicomnode.assemble.rules import CompletedBy
from dicomnode.assemble.stored import read_study
from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.instances import stored_instances, what_was_purged
from dicomnode.records.states import DeliveryState, JobState, StudyState, moved
from dicomnode.records.tables import DecisionRow, DeliveryRow, JobRow, StudyRow
from dicomnode.records.wake import Topic, announce
from dicomnode.route.routing import Decision, route_study
from dicomnode.route.versions import Request, Versions
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from dicomnode.urgency import rank, steps
from inference.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True)
class Dispatch:
    """Routes studies. One per node."""

    settings: Settings
    database: Database
    registry: Registry
    audit: Audit

    @property
    def _versions(self) -> Versions:
        return Versions(self.settings, self.registry, self.audit)

    @property
    def _spool(self) -> Spool:
        return Spool(self.settings.spool)

    def route_complete_studies(self) -> None:
        """Decide about every study that is complete and not yet routed, the most urgent first.

        None is routed while the queues are full or the spool is away: it waits with the reason.
        """
        for study_instance_uid in self._waiting():
            if self._is_held():
                return
            try:
                self._route(study_instance_uid)
            except SQLAlchemyError:
                raise
            except PermanentError as error:
                log.error("study_parked", study_instance_uid=study_instance_uid, reason=str(error))
                self._park(study_instance_uid, str(error))
            except OSError as error:
                self._park_unless_the_spool_is_away(study_instance_uid, error)
            except Exception as error:
                log.exception("study_parked", study_instance_uid=study_instance_uid)
                self._park(study_instance_uid, f"internal error {type(error).__name__} while routing")

    def _park_unless_the_spool_is_away(self, study_instance_uid: str, error: OSError) -> None:
        """A disk that fails as a whole says nothing of this study, which is tried again at the next tick."""
        log.error("study_not_read", study_instance_uid=study_instance_uid, error=error.strerror)
        if self._spool.works():
            reason = f"its images cannot be read ({error.strerror}); mend that, and replay the study"
            self._park(study_instance_uid, reason)

    def _is_held(self) -> bool:
        """Whether the queues are full now, or the spool is away; then every study that waits says so."""
        with self.database.snapshot() as session:
            reason = why_hold(session, self.settings)
        if not self._spool.is_there():
            reason = f"the spool {self.settings.spool} is not there; mount its disk"
        if reason is not None:
            self._hold(reason)
        return reason is not None

    def _waiting(self) -> list[str]:
        """All that wait, in order; none while the queues are full, for then their order does not matter."""
        with self.database.snapshot() as session:
            some = session.scalar(_complete().with_only_columns(StudyRow.study_instance_uid).limit(1))
        if some is None or self._is_held():
            return []
        with self.database.snapshot() as session:
            studies = session.execute(_complete()).all()
        rules = self.settings.priority
        return [
            study.study_instance_uid
            for study in sorted(
                studies, key=lambda s: rank(s.completed_at or utc_now(), self._priority(s), rules)
            )
        ]

    def _priority(self, study: StudyRow | Row[Any]) -> int:
        """What the study and its sender add to the priority of its jobs."""
        sender = sum(
            peer.priority
            for peer in self.settings.peer
            if peer.may_send and peer.ae_title.strip() == study.calling_ae_title
        )
        return sender + steps(study.urgency, self.settings.priority)

    def _hold(self, reason: str) -> None:
        """Say once of each study why it waits."""
        with self.database.snapshot() as session:
            new = session.scalars(
                select(StudyRow.study_instance_uid).where(
                    StudyRow.state == StudyState.COMPLETE.value, StudyRow.held_reason.is_(None)
                )
            ).all()
        for study_instance_uid in new:
            with self.database.transaction() as session:
                study = session.get_one(StudyRow, study_instance_uid)
                if study.state == StudyState.COMPLETE and study.held_reason is None:
                    study.held_reason = reason
                    self.audit.record(session, Event.STUDY_HELD, Subject(study_instance_uid), reason=reason)

    def _park(self, study_instance_uid: str, reason: str) -> None:
        """A study that cannot be routed stands aside, so that the others go on."""
        with self.database.transaction() as session:
            study = session.get_one(StudyRow, study_instance_uid)
            if study.state == StudyState.COMPLETE:
                study.state = moved(StudyState.COMPLETE, StudyState.PARKED).value
                self.audit.record(session, Event.STUDY_PARKED, Subject(study_instance_uid), reason=reason)

    def _route(self, study_instance_uid: str) -> None:
        """Read the headers first, then write everything in one short transaction.

        When an instance arrives in between, the study is receiving again and nothing is written.
        """
        with self.database.snapshot() as session:
            generation = session.get_one(StudyRow, study_instance_uid).generation
            rows = stored_instances(session, study_instance_uid)
        purged = [row for row in rows if row.purged_at is not None]
        if purged:
            self._park(study_instance_uid, what_was_purged(purged))
            return
        decisions = [
            decision for study in read_study(rows) for decision in route_study(study, self.settings.route)
        ]
        with self.database.transaction() as session:
            study = session.get_one(StudyRow, study_instance_uid)
            if study.state != StudyState.COMPLETE or study.generation != generation:
                return
            routed = [self._carry_out(session, study, decision) for decision in decisions]
            state = StudyState.ROUTED if any(routed) else StudyState.IGNORED
            study.state = moved(StudyState(study.state), state).value
            study.held_reason = None

    def _carry_out(self, session: Session, study: StudyRow, decision: Decision) -> bool:
        """Store one decision and make its job. Returns whether the series goes to a model."""
        reason, routed = decision.reason, False
        if decision.route is not None:
            request = Request(
                series=decision.series,
                generation=study.generation,
                route=decision.route,
                priority=decision.route.priority + self._priority(study),
                notes=tuple(completeness_notes(study)),
            )
            routed, outcome = self._versions.make_jobs(session, request)
            reason = f"{reason}; {outcome}"
        route = decision.route
        session.add(
            DecisionRow(
                study_instance_uid=study.study_instance_uid,
                generation=study.generation,
                series_instance_uid=decision.series.series_instance_uid,
                routed=routed,
                route=route.name if route else None,
                model=route.model if route else None,
                reason=reason,
                checks=decision.as_json(),
                decided_at=utc_now(),
            )
        )
        self.audit.record(
            session,
            Event.SERIES_ROUTED if routed else Event.SERIES_NOT_ROUTED,
            Subject(study.study_instance_uid, decision.series.series_instance_uid),
            reason=reason,
            route=route.name if route else None,
            generation=study.generation,
            modality=decision.series.modality,
            instance_count=len(decision.series.instances),
        )
        return routed


def _complete() -> Any:
    """The complete studies, with what their order depends on."""
    return select(
        StudyRow.study_instance_uid, StudyRow.completed_at, StudyRow.calling_ae_title, StudyRow.urgency
    ).where(StudyRow.state == StudyState.COMPLETE.value)


def why_hold(session: Session, settings: Settings) -> str | None:
    """Why no study is routed now: too much waits behind it. None while there is room."""
    jobs = select(func.count(JobRow.id)).where(
        JobRow.state == JobState.QUEUED.value, JobRow.shadow.is_(False)
    )
    results = select(func.count(DeliveryRow.id)).where(DeliveryRow.state == DeliveryState.WAITING.value)
    for count, limit, what in (
        (jobs, settings.worker.maximum_waiting_jobs, "jobs wait for a worker"),
        (results, settings.delivery.maximum_waiting, "results wait to be sent"),
    ):
        waiting = session.scalar(count) or 0
        if waiting >= limit:
            return f"{waiting} {what}, as many as may (limit {limit})"
    return None


def completeness_notes(study: StudyRow) -> list[str]:
    """What the report must say when the study may not be whole."""
    notes = []
    if study.completed_by == CompletedBy.DEADLINE:
        notes.append("The study was closed at its deadline, not because it was known to be whole.")
    if study.missing:
        notes.append(f"The study may not be complete: {study.missing}.")
    return notes


def replay_study(session: Session, audit: Audit, study: StudyRow) -> None:
    """Route a parked study again."""
    study.state = moved(StudyState(study.state), StudyState.COMPLETE).value
    announce(session, Topic.STUDIES)
    audit.record(session, Event.STUDY_REPLAYED, Subject(study.study_instance_uid))
