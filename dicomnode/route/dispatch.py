"""Turns complete studies into decisions and jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicomnode.assemble.assembly import CompletedBy
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.instances import stored_instances
from dicomnode.records.states import StudyState, moved
from dicomnode.records.tables import DecisionRow, InstanceRow, StudyRow
from dicomnode.route.routing import Decision, route_study
from dicomnode.settings import SENDING_STATES, WORKING_STATES, Settings
from dicomnode.study import Instance, group_studies, read_instance
from dicomnode.work.orders import Order, create_job
from inference.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True)
class Dispatch:
    """Routes studies. One per node."""

    settings: Settings
    database: Database
    registry: Registry
    audit: Audit

    def route_complete_studies(self) -> None:
        """Decide about every study that is complete and not yet routed."""
        with self.database.snapshot() as session:
            waiting = session.scalars(
                select(StudyRow.study_instance_uid).where(StudyRow.state == StudyState.COMPLETE.value)
            ).all()
        for study_instance_uid in waiting:
            try:
                self._route(study_instance_uid)
            except SQLAlchemyError:
                raise
            except Exception as error:
                log.exception("study_parked", study_instance_uid=study_instance_uid)
                self._park(study_instance_uid, f"internal error {type(error).__name__} while routing")

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
        instances = [found for row in rows if (found := _read(row)) is not None]
        decisions = [
            decision
            for study in group_studies(instances)
            for decision in route_study(study, self.settings.route)
        ]
        with self.database.transaction() as session:
            study = session.get_one(StudyRow, study_instance_uid)
            if study.state != StudyState.COMPLETE or study.generation != generation:
                return
            routed = [self._carry_out(session, study, decision) for decision in decisions]
            state = StudyState.ROUTED if any(routed) else StudyState.IGNORED
            study.state = moved(StudyState(study.state), state).value

    def _carry_out(self, session: Session, study: StudyRow, decision: Decision) -> bool:
        """Store one decision and make its job. Returns whether the series goes to a model."""
        reason, routed = decision.reason, False
        if decision.route is not None:
            routed, outcome = self._make_job(session, study, decision)
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

    def _make_job(self, session: Session, study: StudyRow, decision: Decision) -> tuple[bool, str]:
        assert decision.route is not None
        bundle = self.registry.bundles.get(decision.route.model)
        if bundle is None:
            return False, f"but no usable model bundle is called {decision.route.model!r}"
        state = self.settings.model_state(bundle.card)
        if state not in WORKING_STATES:
            return False, f"but model {bundle.card.name} is {state}"
        order = Order(
            series=decision.series,
            generation=study.generation,
            route=decision.route,
            bundle=bundle,
            send=state in SENDING_STATES,
            notes=tuple(completeness_notes(study)),
            wanted=self.settings.wanted,
        )
        job, new = create_job(session, self.audit, order)
        return True, f"job {job.id}" if new else f"unchanged, so job {job.id} ({job.state}) stands"


def completeness_notes(study: StudyRow) -> list[str]:
    """What the report must say when the study may not be whole."""
    notes = []
    if study.completed_by == CompletedBy.DEADLINE:
        notes.append("The study was processed at its deadline while images were still arriving.")
    if study.expected_count and (study.received_count or 0) < study.expected_count:
        notes.append(
            f"The study may not be complete: {study.received_count} of {study.expected_count} objects "
            "that the sending archive holds had arrived."
        )
    return notes


def _read(row: InstanceRow) -> Instance | None:
    """The header of a stored instance; None, and an event in the log, when it cannot be read."""
    try:
        return read_instance(Path(row.path), row.sha256)
    except (InvalidDicomError, OSError) as error:
        log.error("instance_unreadable", sop_instance_uid=row.sop_instance_uid, error=type(error).__name__)
        return None


def replay_study(session: Session, audit: Audit, study: StudyRow) -> None:
    """Route a parked study again."""
    study.state = moved(StudyState(study.state), StudyState.COMPLETE).value
    audit.record(session, Event.STUDY_REPLAYED, Subject(study.study_instance_uid))
