"""Promote, demote, retire, roll back: each is one transaction, with what becomes of open jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import utc_now
from dicomnode.records.model_tables import ModelRow
from dicomnode.records.standing import RANK, enrol, limit, live_row
from dicomnode.records.states import JobState, moved
from dicomnode.records.tables import JobRow
from dicomnode.settings.node import Settings
from dicomnode.work.jobs import fail_job, put_in_shadow, supersede_job
from dicomnode.work.orders import hand_over
from inference.bundle import ModelBundle, ModelState
from inference.registry import Registry

HIGHER = {ModelState.DRAFT: ModelState.SHADOW, ModelState.SHADOW: ModelState.LIVE,
          ModelState.RETIRED: ModelState.SHADOW}  # fmt: skip
LOWER = {ModelState.LIVE: ModelState.SHADOW, ModelState.SHADOW: ModelState.DRAFT}


@dataclass(frozen=True)
class Life:
    """Changes the states of models on behalf of whoever `audit` names."""

    settings: Settings
    registry: Registry
    audit: Audit

    def enrol(self, session: Session) -> None:
        """Give every version in the models folder that was never seen its first state."""
        for name in self.registry.names:
            enrol(session, self.audit, self.settings.models, self.registry.versions(name))

    def promote(self, session: Session, bundle: ModelBundle, reason: str) -> ModelRow:
        """One step up: draft or retired to shadow, shadow to live. Returns the model as it is now.

        What was live until then is retired, and its open jobs go to this version.
        """
        row = self._row(session, bundle, reason)
        higher = HIGHER.get(ModelState(row.state))
        if higher is None:
            raise PermanentError(f"{_told(row)} is live already")
        self._check_limit(row, higher)
        before = live_row(session, row.name) if higher is ModelState.LIVE else None
        if before is not None:
            before.replaced_by, row.replaced_by = row.digest, None
            self._succeed(session, before, row, reason)
        self._change(session, row, higher, reason)
        return row

    def demote(self, session: Session, bundle: ModelBundle, reason: str) -> ModelRow:
        """One step down: live to shadow, shadow to draft. Open jobs of a live model send nothing then."""
        row = self._row(session, bundle, reason)
        lower = LOWER.get(ModelState(row.state))
        if lower is None:
            raise PermanentError(f"{_told(row)} is {row.state}; only live and shadow models can be demoted")
        self._change(session, row, lower, reason)
        if lower is ModelState.SHADOW:
            for job in _open_jobs(session, row):
                put_in_shadow(job)
        else:
            row.replaced_by = None  # a draft is nothing to go back to
            self._end_open_jobs(session, row, reason)
        return row

    def retire(self, session: Session, bundle: ModelBundle, reason: str) -> ModelRow:
        """The model runs no more, and its open jobs end."""
        row = self._row(session, bundle, reason)
        if row.state == ModelState.RETIRED:
            raise PermanentError(f"{_told(row)} is retired already")
        self._change(session, row, ModelState.RETIRED, reason)
        self._end_open_jobs(session, row, reason)
        return row

    def rollback(self, session: Session, name: str, reason: str) -> ModelRow:
        """The version that was live before serves again, and gets the open jobs of the one that goes."""
        _check_reason(reason)
        current = live_row(session, name)
        if current is None:
            raise PermanentError(f"no version of {name!r} is live; promote one instead")
        earlier = session.scalar(select(ModelRow).where(ModelRow.replaced_by == current.digest))
        if earlier is None:
            raise PermanentError(f"{_told(current)} replaced no other version; promote or retire instead")
        self._check_limit(earlier, ModelState.LIVE)
        self.registry.get(earlier.digest)  # it must be there to serve
        self._succeed(session, current, earlier, reason)
        earlier.replaced_by = None
        self._change(session, earlier, ModelState.LIVE, reason)
        return earlier

    def _row(self, session: Session, bundle: ModelBundle, reason: str) -> ModelRow:
        _check_reason(reason)
        self.enrol(session)
        return session.get_one(ModelRow, bundle.digest)

    def _check_limit(self, row: ModelRow, wanted: ModelState) -> None:
        highest = limit(self.settings.models, row.name)
        if RANK[wanted] > RANK[highest]:
            raise PermanentError(
                f"models.states in node.toml limits {row.name} to {highest}; change it and restart the node"
            )

    def _succeed(self, session: Session, old: ModelRow, new: ModelRow, reason: str) -> None:
        """`new` takes the place of `old`: a job that is running publishes nothing any more."""
        self._change(session, old, ModelState.RETIRED, reason)
        for job in _open_jobs(session, old):
            supersede_job(session, self.audit, job, f"{_told(new)} took the place of {_told(old)}")
            hand_over(session, self.audit, job, new, self.settings.wanted)

    def _end_open_jobs(self, session: Session, row: ModelRow, reason: str) -> None:
        """Shadow jobs just end. A job that should have sent something fails, so that somebody sees it."""
        for job in _open_jobs(session, row, shadow=None):
            why = f"{_told(row)} became {row.state}: {reason}"
            if job.shadow:
                supersede_job(session, self.audit, job, why)
            else:
                fail_job(session, self.audit, job, f"{why}; when it may work again, replay the job")

    def _change(self, session: Session, row: ModelRow, state: ModelState, reason: str) -> None:
        before = ModelState(row.state)
        row.state = moved(before, state).value
        row.changed_at, row.changed_by, row.reason = utc_now(), self.audit.actor, reason
        session.flush()
        told: dict[str, Any] = {"model": row.name, "model_version": row.version, "model_digest": row.digest}
        told |= {"before": before.value, "state": row.state, "reason": reason}
        self.audit.record(session, Event.MODEL_CHANGED, Subject(), **told)


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise PermanentError("say why: the reason is kept in the audit trail")


def _open_jobs(session: Session, row: ModelRow, shadow: bool | None = False) -> list[JobRow]:
    """Jobs of a version that have not ended, locked: those that send, unless told otherwise."""
    states = (JobState.QUEUED.value, JobState.RUNNING.value)
    query = select(JobRow).where(JobRow.model_digest == row.digest, JobRow.state.in_(states))
    if shadow is not None:
        query = query.where(JobRow.shadow.is_(shadow))
    return list(session.scalars(query.order_by(JobRow.id).with_for_update()))


def _told(row: ModelRow) -> str:
    return f"{row.name} {row.version} ({row.digest[:12]})"
