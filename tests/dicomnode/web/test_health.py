"""What machines ask of the web page, without a login."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from dicomnode.observe import readiness
from dicomnode.receive.intake import Intake
from dicomnode.receive.listener import Listener
from dicomnode.records.audit import Audit
from dicomnode.spool import Spool
from tests.dicomnode.parts import PATIENT, arrival, image
from tests.dicomnode.web.browsing import Page


def ask(page: Page, path: str) -> Any:
    return page.browser().client.get(path)


def test_metrics_need_no_login_and_hold_no_patient_data(page: Page) -> None:
    Spool(page.settings.spool).prepare()
    Intake(Spool(page.settings.spool), page.database, Audit("receiver")).take(arrival(image()))
    answer = ask(page, "/metrics")
    assert answer.status_code == 200
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"dicomnode_studies", "dicomnode_events"} <= names
    assert 'dicomnode_studies{state="receiving"} 1.0' in answer.text
    assert not [word for word in PATIENT.values() if word in answer.text]


def test_the_process_is_alive_whatever_the_node_is(page: Page) -> None:
    assert ask(page, "/healthz").text == "ok\n"


def test_a_node_that_listens_is_ready_and_one_that_does_not_is_not(page: Page) -> None:
    answer = ask(page, "/readyz")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert "does not answer" in answer.json()["listener"]
    spool = Spool(page.settings.spool)
    spool.prepare()
    listener = Listener(page.settings, page.database, spool)
    listener.start()
    try:
        answer = ask(page, "/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (200, True), answer.json()
    finally:
        listener.stop()


def test_an_old_schema_is_not_ready(page: Page) -> None:
    with page.database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert "revision 0001, newest " in ask(page, "/readyz").json()["schema"]


def test_a_database_that_cannot_be_written_is_not_ready(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    with page.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    assert "cannot be written" in ask(page, "/readyz").json()["database"]


def test_a_full_disk_is_not_ready(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "free_bytes", lambda folder: -1)
    answer = ask(page, "/readyz")
    assert answer.status_code == 503
    assert answer.json()["disk"].startswith("-0.0 GB free")
