"""Alerts: a trouble that lasts is one alert, told once when it begins and once when it ends.

What was told is in the database, so a restart repeats nothing. A process that dies between sending a
message and writing that down repeats that one message; nothing is left untold.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from dicomnode.errors import NodeError
from dicomnode.observe.channels import Channel, Message, News, Phase, channels_of
from dicomnode.observe.figures import read_figures
from dicomnode.observe.troubles import Trouble, find_troubles, open_alerts
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.watch_tables import AlertMessageRow, AlertRow
from dicomnode.settings.node import Settings

OLD_NEWS = timedelta(days=1)
"""An alert that ended longer ago is not told any more, for instance to a channel that is new."""

log = structlog.get_logger()


class Alerts:
    """Keeps the alerts of one node and tells of them."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._audit = Audit("housekeeping")
        self._channels = channels_of(settings.alerts)

    def tick(self) -> None:
        """Look at everything, and tell what is new."""
        now = utc_now()
        with self._database.snapshot() as session:
            figures = read_figures(session, frozenset(), finished=False)
            troubles = find_troubles(session, self._settings, figures, now)
            quiet = not troubles and not open_alerts(session)
        if not quiet:
            with self._database.transaction() as session:
                self._update(session, troubles, now)
        for channel in self._channels:
            self._tell(channel, now)

    def _update(self, session: Session, troubles: Sequence[Trouble], now: datetime) -> None:
        """Begin, go on with or end alerts."""
        known = {(alert.kind, alert.subject): alert for alert in open_alerts(session)}
        for trouble in troubles:
            alert = known.pop((trouble.kind.value, trouble.subject), None)
            if alert is None:
                alert = AlertRow(kind=trouble.kind.value, subject=trouble.subject, began_at=now)
                self._record(session, Event.ALERT_BEGAN, trouble.kind.value, trouble.subject, trouble.text)
            alert.text, alert.seen_at = trouble.text, now
            session.add(alert)
        for alert in known.values():
            if abs(now - alert.seen_at) >= timedelta(seconds=self._settings.alerts.settle_s):
                alert.ended_at = now
                self._record(session, Event.ALERT_ENDED, alert.kind, alert.subject, alert.text)

    def _record(self, session: Session, event: Event, kind: str, subject: str, text: str) -> None:
        self._audit.record(session, event, Subject(), kind=kind, about=subject, text=text)

    def _tell(self, channel: Channel, now: datetime) -> None:
        """Send one message with all that this channel does not know yet, when it is time for one."""
        with self._database.snapshot() as session:
            untold = _untold(session, channel.name, now)
            last = _last_told(session, channel.name, now)
        wait = timedelta(seconds=self._settings.alerts.message_interval_s)
        if not untold or (last is not None and now - last < wait):
            return
        try:
            channel.send(Message(self._settings.node.ae_title, tuple(untold)))
        except NodeError as error:
            log.warning("alert_not_sent", channel=channel.name, reason=str(error))
            return
        with self._database.transaction() as session:
            for news in untold:
                session.add(
                    AlertMessageRow(
                        alert_id=news.alert_id, channel=channel.name, phase=news.phase.value, sent_at=now
                    )
                )


def _untold(session: Session, channel: str, now: datetime) -> list[News]:
    """What a channel has not been told, in the order in which it happened; old news is left out."""
    rows = session.execute(
        select(AlertMessageRow.alert_id, AlertMessageRow.phase).where(AlertMessageRow.channel == channel)
    )
    told = {(alert_id, phase) for alert_id, phase in rows}
    recent = or_(AlertRow.ended_at.is_(None), AlertRow.ended_at >= now - OLD_NEWS)
    found = []
    for alert in session.scalars(select(AlertRow).where(recent).order_by(AlertRow.id)):
        for phase, at in ((Phase.BEGUN, alert.began_at), (Phase.ENDED, alert.ended_at)):
            if at is not None and (alert.id, phase.value) not in told:
                found.append(News(alert.id, alert.kind, alert.subject, phase, at, alert.text))
    return sorted(found, key=lambda news: news.at)


def _last_told(session: Session, channel: str, now: datetime) -> datetime | None:
    """What was told by a clock that was ahead does not count."""
    told = (AlertMessageRow.channel == channel, AlertMessageRow.sent_at <= now)
    return session.scalar(select(func.max(AlertMessageRow.sent_at)).where(*told))
