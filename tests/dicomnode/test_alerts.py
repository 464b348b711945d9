"""Alerts: what begins one, what ends it, and what a real HTTP server and a real mail server get.

Mail by STARTTLS is in `test_mail.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select, text

from dicomnode.deliver.delivery import Delivery
from dicomnode.errors import ConfigurationError
from dicomnode.observe import alerts as alerts_module
from dicomnode.observe.alerts import Alerts
from dicomnode.observe.peers import check_peer, forget_others
from dicomnode.observe.trail import verify_daily
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import DeliveryRow, DestinationRow, StudyRow
from dicomnode.records.verifying import record_check, verify_trail
from dicomnode.records.watch_tables import AlertRow, PeerCheckRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import Settings
from tests.databases import migrated_database
from tests.dicomnode.parts import PATIENT, kinds, peer_answering, settings_in
from tests.dicomnode.tampering import tamper
from tests.dicomnode.test_metrics import add_delivery, add_job

pytestmark = pytest.mark.both_databases

NO_WAITING = "settle_s = 0.0\nmessage_interval_s = 0.0\nminimum_free_gb = 0.0\n"


class Clock:
    """The time that the alerts see."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(alerts_module, "utc_now", found)
    return found


class Hook:
    """A webhook on loopback that keeps what it gets."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.authorizations: list[str | None] = []
        self.answer = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.answer == 200:
                    hook.bodies.append(json.loads(body))
                    hook.authorizations.append(self.headers["Authorization"])
                self.send_response(hook.answer)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Kind, subject and phase of everything told so far."""
        return [(n["kind"], n["subject"], n["phase"]) for body in self.bodies for n in body["alerts"]]


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.server.shutdown()
    found.server.server_close()


def node(folder: Path, more: str) -> tuple[Settings, Database]:
    settings = settings_in(folder, f"[alerts]\n{more}")
    database = migrated_database(settings)
    return settings, database


def bury(database: Database, number: int = 1) -> None:
    add_delivery(database, "dead", age_s=10, number=number)


def resurrect(database: Database) -> None:
    with database.transaction() as session:
        for row in session.scalars(select(DeliveryRow)):
            row.state = "delivered"


def test_an_alert_is_told_once_when_it_begins_and_once_when_it_ends(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    alerts.tick()
    assert hook.told == []
    bury(database)
    for _ in range(3):
        alerts.tick()
    assert hook.told == [("dead_letter", "PACS", "begun")]
    Alerts(settings, database).tick()  # the node was started again
    assert len(hook.told) == 1
    resurrect(database)
    for _ in range(3):
        alerts.tick()
    assert hook.told == [("dead_letter", "PACS", "begun"), ("dead_letter", "PACS", "ended")]
    assert kinds(database) == ["alert_began", "alert_ended"]
    assert "1 begun (dead letter)" in hook.bodies[0]["text"]
    assert hook.bodies[0]["node"] == "LESIONNODE"


def test_what_could_not_be_sent_is_sent_later(tmp_path: Path, hook: Hook, logs: list[Any]) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    hook.answer = 503
    bury(database)
    alerts = Alerts(settings, database)
    alerts.tick()
    assert [e["reason"] for e in logs if e["event"] == "alert_not_sent"] == ["the webhook answered 503"]
    hook.answer = 200
    alerts.tick()
    assert hook.told == [("dead_letter", "PACS", "begun")]


def test_a_trouble_that_comes_and_goes_is_one_alert(tmp_path: Path, hook: Hook, clock: Clock) -> None:
    settings, database = node(tmp_path, f'minimum_free_gb = 0.0\nwebhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    for number in range(10, 14):
        bury(database, number=number)
        alerts.tick()
        resurrect(database)
        clock.advance(100)
        alerts.tick()
    clock.advance(301)
    alerts.tick()
    assert [phase for _, _, phase in hook.told] == ["begun", "ended"]
    with database.snapshot() as session:
        assert len(session.scalars(select(AlertRow)).all()) == 1


def test_messages_are_limited_and_nothing_between_them_is_lost(
    tmp_path: Path, hook: Hook, clock: Clock
) -> None:
    settings, database = node(tmp_path, f'minimum_free_gb = 0.0\nwebhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    bury(database)
    alerts.tick()
    add_job(database, "queued", age_s=7200, number=50)
    add_delivery(database, "waiting", age_s=7200, number=51)
    alerts.tick()
    assert len(hook.bodies) == 1
    clock.advance(61)
    alerts.tick()
    assert len(hook.bodies) == 2
    assert sorted(hook.told) == [
        ("dead_letter", "PACS", "begun"),
        ("queue_age", "queued_jobs", "begun"),
        ("queue_age", "waiting_deliveries", "begun"),
    ]


def test_a_study_that_receives_long_after_its_deadline_is_an_alert(
    tmp_path: Path, hook: Hook, clock: Clock
) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    add_job(database, "succeeded")
    with database.transaction() as session:
        session.scalars(select(StudyRow)).one().state = "receiving"
    clock.advance(settings.assembly.deadline_s + settings.alerts.queue_age_s - 200)
    alerts.tick()
    assert hook.told == []
    clock.advance(300)
    alerts.tick()
    assert hook.told == [("queue_age", "receiving_studies", "begun")]


def test_a_lost_destination_is_an_alert_until_its_breaker_closes(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    lost = DestinationRow(name="PACS", state="open", failures=3, lost_at=utc_now(), reason="no answer")
    gone = DestinationRow(name="NO LONGER CONFIGURED", state="open", failures=3, lost_at=utc_now())
    with database.transaction() as session:
        session.add_all([lost, gone])
    alerts.tick()
    assert hook.told == [("destination_lost", "PACS", "begun")]
    assert "no answer" in hook.bodies[0]["text"]
    with database.transaction() as session:
        row = session.get(DestinationRow, "PACS")
        assert row
        row.state, row.failures, row.lost_at = "closed", 0, None
    alerts.tick()
    assert hook.told[1:] == [("destination_lost", "PACS", "ended")]


def test_old_news_is_not_told_to_a_new_channel(tmp_path: Path, hook: Hook, clock: Clock) -> None:
    settings, database = node(tmp_path, NO_WAITING)
    bury(database)
    Alerts(settings, database).tick()
    resurrect(database)
    Alerts(settings, database).tick()
    clock.advance(2 * 86400)
    settings = settings_in(tmp_path, f'[alerts]\n{NO_WAITING}webhook = "{hook.url}"')
    Alerts(settings, database).tick()
    assert hook.bodies == []


def test_the_webhook_gets_its_token_from_a_file(tmp_path: Path, hook: Hook) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"\nwebhook_token_file = "token"')
    bury(database)
    Alerts(settings, database).tick()
    assert hook.authorizations == ["Bearer s3cret"]
    assert "s3cret" not in settings.model_dump_json()


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, '[alerts]\nwebhook_token_file = "nowhere"')
    with pytest.raises(ConfigurationError, match=r"nowhere cannot be read .* DICOMNODE_WEBHOOK_TOKEN"):
        _ = settings.alerts.webhook_token


class Mailbox:
    """What a mail server was given."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        return "250 OK"


def test_mail_reaches_every_recipient(tmp_path: Path) -> None:
    mailbox, port = Mailbox(), free_port()
    server = Controller(mailbox, hostname="127.0.0.1", port=port, ready_timeout=60)
    server.start()
    try:
        settings, database = node(
            tmp_path,
            f'{NO_WAITING}mail_to = ["a@example.org", "b@example.org"]\nmail_from = "node@example.org"\n'
            f'smtp_host = "127.0.0.1"\nsmtp_port = {port}\nsmtp_security = "none"',
        )
        bury(database)
        alerts = Alerts(settings, database)
        alerts.tick()
        alerts.tick()
    finally:
        server.stop()
    (envelope,) = mailbox.envelopes
    assert envelope.rcpt_tos == ["a@example.org", "b@example.org"]
    mail = message_from_bytes(envelope.content)
    assert mail["Subject"] == "[LESIONNODE] alerts: 1 begun (dead letter)"
    assert "1 result(s) were given up for PACS" in str(mail.get_payload())


def test_no_message_holds_patient_data(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    bury(database)
    add_job(database, "queued", age_s=7200, number=60)
    Alerts(settings, database).tick()
    told = json.dumps(hook.bodies)
    assert "1.2.3.4" not in told
    for word in PATIENT.values():
        assert word not in told


def test_a_peer_that_stays_away_is_an_alert_until_it_answers(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}peer_down_s = 0.000001\nwebhook = "{hook.url}"')
    check_peer(settings, database, settings.peers["PACS"])
    alerts = Alerts(settings, database)
    alerts.tick()
    assert hook.told == [("peer_down", "PACS", "begun")]
    with peer_answering() as peer:
        there = settings.peers["PACS"].model_copy(update={"port": peer.port})
        check_peer(settings, database, there)
        alerts.tick()
    assert hook.told[1:] == [("peer_down", "PACS", "ended")]


def test_a_peer_that_is_no_longer_called_is_forgotten(settings: Settings, database: Database) -> None:
    with database.transaction() as session:
        session.add(PeerCheckRow(peer="GONE", checked_at=utc_now(), failing_since=utc_now(), problem="x"))
        session.add(PeerCheckRow(peer="PACS", checked_at=utc_now()))
    forget_others(settings, database)
    with database.snapshot() as session:
        assert [row.peer for row in session.scalars(select(PeerCheckRow))] == ["PACS"]


def test_processes_that_die_again_and_again_are_an_alert(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    for deaths in range(3):
        alerts.tick()
        assert hook.told == [], deaths
        with database.transaction() as session:
            Audit("serve").record(session, Event.PROCESS_DIED, Subject(), role="work", exit_status=-9)
    alerts.tick()
    assert hook.told == [("worker_dying", "", "begun")]


def test_a_form_that_could_not_be_made_is_an_alert_for_who_waits_for_it(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    with database.transaction() as session:
        told = {"kind": "rtstruct", "error": "ValueError", "destinations": ["PACS"]}
        Audit("worker cpu").record(session, Event.RESULT_LEFT_OUT, Subject("1.2"), **told)
    Alerts(settings, database).tick()
    assert hook.told == [("left_out", "PACS", "begun")]


def test_little_free_disk_is_an_alert(tmp_path: Path, hook: Hook) -> None:
    settings, database = node(tmp_path, f'settle_s = 0.0\nminimum_free_gb = 1e9\nwebhook = "{hook.url}"')
    Alerts(settings, database).tick()
    assert hook.told == [("disk", "", "begun")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('mail_to = ["a@b.c"]', "mail_to needs mail_from and smtp_host too"),
        ('smtp_user = "u"\nsmtp_security = "none"', "in the clear"),
        ('webhook = "ftp://x"', "alerts.webhook"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        settings_in(tmp_path, f"[alerts]\n{more}")


def test_what_was_given_up_for_a_peer_that_is_gone_is_told_for_a_day(
    tmp_path: Path, hook: Hook, clock: Clock
) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    add_delivery(database, "waiting", age_s=10)
    with database.transaction() as session:
        session.scalars(select(DeliveryRow)).one().destination = "GONE"
    Delivery(settings, database).bury_unknown()
    alerts = Alerts(settings, database)
    alerts.tick()
    assert hook.told == [("dead_letter", "GONE", "begun")]
    clock.advance(86500.0)
    alerts.tick()
    assert hook.told[1:] == [("dead_letter", "GONE", "ended")]


def test_a_clock_that_was_ahead_silences_no_message(tmp_path: Path, hook: Hook, clock: Clock) -> None:
    waiting = NO_WAITING.replace("message_interval_s = 0.0", "message_interval_s = 60.0")
    settings, database = node(tmp_path, f'{waiting}webhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    clock.advance(366 * 86400.0)
    bury(database)
    alerts.tick()
    clock.ahead = timedelta()
    resurrect(database)
    alerts.tick()
    assert hook.told == [("dead_letter", "PACS", "begun"), ("dead_letter", "PACS", "ended")]


def test_a_trail_that_does_not_hold_is_an_alert_until_a_check_finds_it_whole(
    tmp_path: Path, hook: Hook
) -> None:
    settings, database = node(tmp_path, f'{NO_WAITING}webhook = "{hook.url}"')
    alerts = Alerts(settings, database)
    bury(database)
    resurrect(database)
    with database.transaction() as session:
        Audit("test").record(session, Event.STUDY_PARKED, Subject("1.2.3.4"), reason="x")
    tamper(database, "UPDATE audit_events SET actor = 'nobody'")
    verify_daily(settings, database, Audit("housekeeping"))
    verify_daily(settings, database, Audit("housekeeping"))  # not a second time on the same day
    assert kinds(database).count("audit_verified") == 1
    alerts.tick()
    assert hook.told == [("chain_broken", "", "begun")]
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE audit_events SET actor = 'test' WHERE id = 1"))
    record_check(database, Audit("admin"), verify_trail(database, settings.anchors, None))
    alerts.tick()
    assert hook.told[1:] == [("chain_broken", "", "ended")]
