"""What the peers that sent a study say of it: asked, kept in memory, and compared with what came in."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import SelectBase, func, select, union
from sqlalchemy.orm import Session

from dicomnode.assemble import qido, query
from dicomnode.assemble.rules import Count, Sender
from dicomnode.errors import TransientError
from dicomnode.records.db import utc_now
from dicomnode.records.states import DeliveryState
from dicomnode.records.tables import DeliveryRow, InstanceRow, ResultRow, StudyRow
from dicomnode.settings.node import PeerSettings, Settings

FIRST_REST_S = 5.0
LONGEST_REST_S = 60.0

log = structlog.get_logger()


class Counts:
    """The newest answer of every counting peer for every study that is coming in.

    In memory only: a count holds for moments, and one housekeeping process asks.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answers: dict[str, dict[str, Count]] = {}
        """By study and AE title."""
        self._rest_until: dict[str, datetime] = {}
        self._rest_s: dict[str, float] = {}

    def answer(self, study_instance_uid: str, ae_title: str) -> Count | None:
        """What the peer said of the study when it was last asked."""
        return self._answers.get(study_instance_uid, {}).get(ae_title)

    def has_answer(self, study_instance_uid: str) -> bool:
        """Whether any peer has said anything of the study."""
        return study_instance_uid in self._answers

    def rests(self, peer: PeerSettings) -> bool:
        """Whether the peer did not answer a while ago and is left alone; asking others goes on."""
        until = self._rest_until.get(peer.name)
        return until is not None and utc_now() < until

    def ask(self, peer: PeerSettings, study_instance_uid: str) -> bool:
        """Ask one peer about one study. False when it does not answer; what it said before is kept."""
        asked_at = utc_now()
        try:
            if peer.dicomweb is not None:
                found = qido.count_instances(peer, study_instance_uid)
            else:
                found = query.count_instances(self._settings.node.ae_title, peer, study_instance_uid)
        except TransientError as error:
            log.warning("count_not_available", peer=peer.name, reason=str(error))
            rest_s = self._rest_s.get(peer.name, FIRST_REST_S)
            self._rest_until[peer.name] = utc_now() + timedelta(seconds=rest_s)
            self._rest_s[peer.name] = min(LONGEST_REST_S, 2 * rest_s)
            return False
        self._rest_s.pop(peer.name, None)
        self._answers.setdefault(study_instance_uid, {})[peer.ae_title.strip()] = Count(found, asked_at)
        return True

    def forget_others(self, study_instance_uids: set[str]) -> None:
        """Keep only what is said of these studies."""
        for uid in list(self._answers):
            if uid not in study_instance_uids:
                self._answers.pop(uid, None)

    def peer_of(self, ae_title: str) -> PeerSettings | None:
        """The peer of this AE title that can be asked for counts."""
        for peer in self._settings.peer:
            if peer.count_instances and peer.ae_title.strip() == ae_title:
                return peer
        return None

    def senders(self, session: Session, study: StudyRow) -> tuple[Sender, ...]:
        """Everybody who sent images of the study first, with what we hold of theirs and what they say."""
        return tuple(
            Sender(
                title,
                _held_by_both(session, study, title, self.peer_of(title)),
                self.answer(study.study_instance_uid, title),
            )
            for title in sorted(titles_of(session, study))
        )


def titles_of(session: Session, study: StudyRow) -> frozenset[str]:
    """AE titles of everybody who sent images of the study first."""
    return frozenset(
        session.scalars(
            select(InstanceRow.calling_ae_title)
            .where(
                InstanceRow.study_instance_uid == study.study_instance_uid, InstanceRow.own_result.is_(False)
            )
            .distinct()
        )
    )


def _held_by_both(session: Session, study: StudyRow, ae_title: str, peer: PeerSettings | None) -> int:
    """What came from a sender, plus our results that it has and therefore counts too.

    What another sender sent first counts for that one alone: with several senders that hold the same
    instances, the later one's count is never reached, and the quiet period decides.
    """
    received = select(InstanceRow.sop_instance_uid).where(
        InstanceRow.study_instance_uid == study.study_instance_uid,
        InstanceRow.calling_ae_title == ae_title,
        InstanceRow.purged_at.is_(None),
    )
    if peer is None:
        return _count(session, received.distinct())
    delivered = (
        select(DeliveryRow.sop_instance_uid)
        .join(ResultRow, ResultRow.sop_instance_uid == DeliveryRow.sop_instance_uid)
        .where(
            ResultRow.study_instance_uid == study.study_instance_uid,
            DeliveryRow.destination == peer.name,
            DeliveryRow.state.in_((DeliveryState.STORED.value, DeliveryState.DELIVERED.value)),
        )
    )
    return _count(session, union(received, delivered))


def _count(session: Session, rows: SelectBase) -> int:
    """Counted by the database: this is asked several times a second for every study coming in."""
    return session.scalar(select(func.count()).select_from(rows.subquery())) or 0
