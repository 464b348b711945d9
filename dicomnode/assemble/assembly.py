"""Closes studies when their rules say so: to be routed, or to stand aside because something is missing."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.assemble.counts import Counts, titles_of
from dicomnode.assemble.required import required_of
from dicomnode.assemble.rules import Progress, Required, Verdict, is_due, may_be_over, verdict
from dicomnode.assemble.stored import read_study
from dicomnode.receive.behind import recorded_until
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.instances import stored_instances
from dicomnode.records.states import StudyState, moved
from dicomnode.records.tables import StudyRow
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool

log = structlog.get_logger()


class Assembly:
    """Watches the studies that are coming in. One per node."""

    def __init__(self, settings: Settings, database: Database, taking_since: datetime | None = None) -> None:
        """What was silent before `taking_since` may have had nobody to talk to."""
        self._taking_since = taking_since
        self._settings = settings
        self._database = database
        self._audit = Audit("assembly")
        self._spool = Spool(settings.spool)
        self.counts = Counts(settings)
        self._looked: dict[str, tuple[datetime, Required | None]] = {}
        """Study -> its last arrival when somebody looked for required series, and what was found."""

    def close_complete_studies(self) -> None:
        """End the wait for every study whose rules say so by now."""
        with self._database.snapshot() as session:
            receiving = _arrival_times(session)
            due = [
                study_instance_uid
                for study_instance_uid, *times in receiving
                if self._may_be_over(study_instance_uid, *times)
                and self._is_over(session, session.get_one(StudyRow, study_instance_uid))
            ]
        self._forget_others({study_instance_uid for study_instance_uid, _, _ in receiving})
        for study_instance_uid in due:
            with self._database.transaction() as session:
                self._close(session, study_instance_uid)

    def _is_over(self, session: Session, study: StudyRow) -> bool:
        return bool(verdict(self.progress(session, study), self._settings.assembly, utc_now()))

    def _may_be_over(self, uid: str, first_received_at: datetime, last_received_at: datetime) -> bool:
        """Whether a verdict is worth its queries: somebody has answered, or a time has run out.

        Looked at several times a second for every study that is coming in, so without a query of its own.
        """
        _, required = self._looked.get(uid, (None, None))
        return self.counts.has_answer(uid) or may_be_over(
            first_received_at, last_received_at, required, self._settings.assembly, utc_now()
        )

    def ask_counts(self, peer: PeerSettings) -> bool:
        """Ask one peer for the counts that are due. Returns whether it said anything."""
        said = False
        for study_instance_uid in self._due_at(peer):
            if self.counts.rests(peer) or not self.counts.ask(peer, study_instance_uid):
                break
            said = True
            with self._database.transaction() as session:
                study = session.get_one(StudyRow, study_instance_uid)
                study.expected_count = _expected(self.progress(session, study))
        return said

    def look_for_required(self) -> None:
        """Read the headers of studies that have come to rest, when there are rules on required series."""
        if not self._settings.required:
            return
        with self._database.snapshot() as session:
            resting = [
                (study.study_instance_uid, study.last_received_at)
                for study in receiving_studies(session)
                if self._is_to_be_looked_at(study)
            ]
        for study_instance_uid, last_received_at in resting:
            with self._database.snapshot() as session:
                rows = stored_instances(session, study_instance_uid)
            required = None
            try:
                found = read_study(row for row in rows if row.purged_at is None)
                required = required_of(found[0], self._settings.required) if found else None
            except Exception:  # the studies behind it must not wait for what is odd in this one
                log.exception("required_series_unknown", study_instance_uid=study_instance_uid)
            self._looked[study_instance_uid] = last_received_at, required

    def progress(self, session: Session, study: StudyRow) -> Progress:
        """How far a study has come in."""
        looked_at, required = self._looked.get(study.study_instance_uid, (None, None))
        return Progress(
            first_received_at=study.first_received_at,
            last_received_at=study.last_received_at,
            senders=self.counts.senders(session, study),
            required=required,
            looked=looked_at == study.last_received_at or not self._settings.required,
            released_at=study.released_at,
            recorded_until=recorded_until(self._spool.journals, utc_now()),
            taking_since=self._taking_since,
        )

    def _close(self, session: Session, study_instance_uid: str) -> None:
        """Decide again within the transaction: an instance may have arrived since."""
        study = session.get_one(StudyRow, study_instance_uid)
        if study.state != StudyState.RECEIVING:
            return
        progress = self.progress(session, study)
        found = verdict(progress, self._settings.assembly, utc_now())
        if found is None:
            return
        study.completed_at, study.completed_by, study.missing = utc_now(), found.rule.value, found.missing
        study.received_count = sum(sender.held_count for sender in progress.senders)
        study.expected_count = _expected(progress)
        state = StudyState.PARKED if found.park else StudyState.COMPLETE
        study.state = moved(StudyState(study.state), state).value
        self._tell(session, study, found)

    def _tell(self, session: Session, study: StudyRow, found: Verdict) -> None:
        counts = {"received_count": study.received_count, "expected_count": study.expected_count}
        subject = Subject(study.study_instance_uid)
        if found.park:
            reason = f"something is missing at the deadline: {found.missing}"
            self._audit.record(session, Event.STUDY_PARKED, subject, reason=reason, **counts)
            return
        missing = {"missing": found.missing} if found.missing else {}
        self._audit.record(
            session,
            Event.STUDY_COMPLETED,
            subject,
            rule=found.rule.value,
            generation=study.generation,
            **counts,
            **missing,
        )

    def _due_at(self, peer: PeerSettings) -> list[str]:
        now, title = utc_now(), peer.ae_title.strip()
        with self._database.snapshot() as session:
            return [
                study.study_instance_uid
                for study in receiving_studies(session)
                if self._is_due(study, title, now)
                and (title == study.calling_ae_title or title in titles_of(session, study))
            ]

    def _is_due(self, study: StudyRow, ae_title: str, now: datetime) -> bool:
        asked_at = self._asked_at(study, ae_title)
        return is_due(
            asked_at, study.last_received_at, self._settings.assembly, now, released_at=study.released_at
        )

    def _asked_at(self, study: StudyRow, ae_title: str) -> datetime | None:
        answer = self.counts.answer(study.study_instance_uid, ae_title)
        return answer.asked_at if answer else None

    def _is_to_be_looked_at(self, study: StudyRow) -> bool:
        rules, now = self._settings.assembly, utc_now()
        settled = now >= study.last_received_at + timedelta(seconds=rules.settle_s)
        over = now >= study.first_received_at + timedelta(seconds=rules.deadline_s)
        looked_at, _ = self._looked.get(study.study_instance_uid, (None, None))
        return (settled or over) and looked_at != study.last_received_at

    def _forget_others(self, study_instance_uids: set[str]) -> None:
        self.counts.forget_others(study_instance_uids)
        for uid in list(self._looked):
            if uid not in study_instance_uids:
                self._looked.pop(uid, None)


def _arrival_times(session: Session) -> list[tuple[str, datetime, datetime]]:
    """UID, first and last arrival of `receiving_studies`: of most, nothing more is asked."""
    times = StudyRow.study_instance_uid, StudyRow.first_received_at, StudyRow.last_received_at
    found = session.execute(select(*times).where(StudyRow.state == StudyState.RECEIVING.value))
    return [(uid, first, last) for uid, first, last in found]


def receiving_studies(session: Session) -> list[StudyRow]:
    """The studies of which something may still arrive."""
    return list(session.scalars(select(StudyRow).where(StudyRow.state == StudyState.RECEIVING.value)))


def _expected(progress: Progress) -> int | None:
    """What all senders together say that there is; None when one of them does not say."""
    said = [sender.count.instances if sender.count else None for sender in progress.senders]
    return None if not said or None in said else sum(number for number in said if number is not None)
