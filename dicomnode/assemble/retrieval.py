"""Notices that a sender holds more of a study than came, and fetches exactly that."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.assemble.assembly import Assembly, receiving_studies
from dicomnode.assemble.query import Reference, instances_at
from dicomnode.assemble.retrieve import Fetched, get, move
from dicomnode.errors import TransientError
from dicomnode.imaging import is_image
from dicomnode.receive.arrival import Origin
from dicomnode.receive.storing import Storing
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import InstanceRow, ResultRow, StudyRow
from dicomnode.settings.node import PeerSettings, Settings

MAXIMUM_ATTEMPTS = 3
"""For one generation of a study; then the quiet period or the deadline decides."""

log = structlog.get_logger()


class Retrieval:
    """Fetches from one peer what is missing."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        assembly: Assembly,
        storing: Storing,
        peer: PeerSettings,
    ) -> None:
        self._settings = settings
        self._database = database
        self._assembly = assembly
        self._storing = storing
        self.peer = peer
        self._audit = Audit("assembly")
        self._attempts: dict[tuple[str, int], list[datetime]] = {}
        """Study and generation -> the ends of what was tried."""

    def fetch_missing(self) -> None:
        """Fetch what is due."""
        with self._database.snapshot() as session:
            receiving = {(s.study_instance_uid, s.generation): s for s in receiving_studies(session)}
            self._attempts = {key: tried for key, tried in self._attempts.items() if key in receiving}
            due = [key for key, study in receiving.items() if self._is_due(session, study)]
        for key in due:
            try:
                self._fetch(key[0])
            except TransientError as error:
                log.warning("retrieval_failed", peer=self.peer.name, reason=str(error))
                return
            finally:
                self._attempts.setdefault(key, []).append(utc_now())

    def _is_due(self, session: Session, study: StudyRow) -> bool:
        tried = self._attempts.get((study.study_instance_uid, study.generation), [])
        pause = timedelta(seconds=self._settings.assembly.retrieve_after_s)
        due_at = max([study.last_received_at, *tried]) + pause
        if len(tried) >= MAXIMUM_ATTEMPTS or utc_now() < due_at:
            return False
        progress = self._assembly.progress(session, study)
        if progress.recorded_until is not None and progress.recorded_until < due_at:
            return False  # what seems to be missing may only wait for its row
        return any(
            sender.missing_count
            for sender in progress.senders
            if sender.ae_title == self.peer.ae_title.strip()
        )

    def _fetch(self, study_instance_uid: str) -> None:
        peer = self.peer
        held_there = instances_at(self._settings.node.ae_title, peer, study_instance_uid)
        missing = self._missing(study_instance_uid, held_there)
        if not missing:
            return
        try:
            fetched = self._retrieve(study_instance_uid, missing)
        except TransientError as error:
            fetched = Fetched(0, 0, str(error))
        log.info("instances_retrieved", peer=peer.name, missing=len(missing), completed=fetched.completed)
        with self._database.transaction() as session:
            self._audit.record(
                session,
                Event.INSTANCES_RETRIEVED,
                Subject(study_instance_uid),
                peer=peer.name,
                method=peer.retrieve_missing,
                missing_count=len(missing),
                completed_count=fetched.completed,
                failed_count=fetched.failed,
                status=fetched.status,
            )

    def _retrieve(self, study_instance_uid: str, missing: list[Reference]) -> Fetched:
        peer, ae_title = self.peer, self._settings.node.ae_title
        if peer.retrieve_missing == "move":
            return move(ae_title, peer, study_instance_uid, missing)
        origin = Origin(peer.ae_title.strip(), peer.host, ae_title.strip(), asked_for=True)
        return get(
            ae_title, peer, study_instance_uid, missing, lambda event: self._storing.store(event, origin)
        )

    def _missing(self, study_instance_uid: str, held_there: list[Reference]) -> list[Reference]:
        """What the peer holds and we neither received nor made, of the classes that are taken."""
        with self._database.snapshot() as session:
            held_here = set(
                session.scalars(
                    select(InstanceRow.sop_instance_uid).where(
                        InstanceRow.study_instance_uid == study_instance_uid, InstanceRow.purged_at.is_(None)
                    )
                )
            ) | set(
                session.scalars(
                    select(ResultRow.sop_instance_uid).where(
                        ResultRow.study_instance_uid == study_instance_uid
                    )
                )
            )
        takes_all = self._settings.listener.other_objects == "keep"
        return [
            reference
            for reference in held_there
            if reference.sop_instance_uid not in held_here
            and (takes_all or is_image(reference.sop_class_uid))
        ]
