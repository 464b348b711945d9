"""Now, audit and configuration: what they show, to whom, and what is recorded about it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from sqlalchemy import select

from dicomnode.export.formats import Format
from dicomnode.records.accounts import Role
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import utc_now
from dicomnode.records.tables import AuditRow, JobRow, StudyRow
from dicomnode.records.watch_tables import AlertRow
from dicomnode.settings.listing import shown
from tests.dicomnode.parts import events, wait_until
from tests.dicomnode.tampering import tamper
from tests.dicomnode.web import hospital as held
from tests.dicomnode.web.browsing import Browser, Page, words


@pytest.mark.both_databases
def test_now_shows_problems_first_and_then_the_figures(worked: Page) -> None:
    with worked.database.transaction() as session:
        session.scalars(select(StudyRow)).first().state = "parked"  # type: ignore[union-attr]
    told = words(worked.logged_in(Role.VIEWER).get("/"))
    for problem in (
        "2 result(s) were given up for PACS",
        "1 study is parked; the page of each says why",
        "1 job has failed",
    ):
        assert told.index(problem) < told.index("Studies arriving")
    assert "Dead letters 2" in told
    assert "Jobs succeeded 1 1" in told
    assert "Results delivered 1 1" in told


def test_now_says_of_an_alert_that_has_not_ended_yet_that_it_is_over(page: Page) -> None:
    now = utc_now()
    with page.database.transaction() as session:
        session.add(
            AlertRow(kind="peer_down", subject="PACS", text="PACS does not answer", began_at=now, seen_at=now)
        )
    assert "PACS does not answer (over by now)." in words(page.logged_in(Role.VIEWER).get("/"))


def test_now_of_a_new_node_needs_no_attention(page: Page) -> None:
    told = words(page.logged_in(Role.VIEWER).get("/"))
    assert "Nothing needs attention." in told or "GB are free" in told


@pytest.mark.both_databases
def test_now_shows_what_runs(worked: Page) -> None:
    with worked.database.transaction() as session:
        job = session.scalars(select(JobRow).where(JobRow.state == "failed")).one()
        job.state, job.stage, job.worker = "running", "segment", "here cpu"
    told = words(worked.logged_in(Role.VIEWER).get("/"))
    assert "segment" in told
    assert "here cpu" in told


@pytest.mark.parametrize("path", ["/audit", "/audit/verification", "/audit/export.csv", "/configuration"])
def test_a_viewer_sees_neither_the_audit_nor_the_configuration(page: Page, path: str) -> None:
    browser = page.logged_in(Role.VIEWER)
    assert browser.get(path).status_code == 403
    assert 'href="/audit"' not in browser.get("/").text
    assert page.logged_in(Role.AUDITOR).get(path).status_code == 200


@pytest.mark.both_databases
def test_the_audit_is_searched_and_reading_it_is_recorded(worked: Page) -> None:
    browser = worked.logged_in(Role.AUDITOR)
    told = words(browser.get("/audit?event=job_failed"))
    assert "job failed:" in told
    assert "job succeeded" not in told
    dead = words(browser.get("/audit?outcome=serious_failure&peer=PACS"))
    assert "given up for PACS" in dead
    assert "job failed:" not in dead
    details = [d for _, d in events(worked.database, "audit_read")]
    assert [d["filters"] for d in details] == [["event"], ["outcome", "peer"]]
    assert "No event of this kind has this outcome" in words(
        browser.get("/audit?event=job_failed&outcome=success")
    )


@pytest.mark.both_databases
def test_older_events_are_on_the_next_page(worked: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.web.pages.audit.PAGE_LENGTH", 2)
    browser = worked.logged_in(Role.AUDITOR)
    first = browser.get("/audit?event=stage_finished").text
    address = first.split('" rel="next"')[0].rsplit('href="', 1)[1].replace("&amp;", "&")
    assert "event=stage_finished" in address
    assert browser.get("/audit?before=99999999").status_code == 200
    assert browser.get("/audit?before=nonsense").status_code == 200
    second = browser.get(address).text
    numbers = [{int(n) for n in re.findall(r'data-label="Event">(\d+)<', text)} for text in (first, second)]
    assert max(numbers[1]) < min(numbers[0])


@pytest.mark.both_databases
def test_an_export_holds_every_event_and_no_formula(worked: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.web.pages.audit.EXPORT_BATCH", 7)
    with worked.database.transaction() as session:
        Audit("=HYPERLINK(1)").record(
            session, Event.STUDY_PARKED, Subject("1.2.3"), reason='+cmd|"/c calc"\r\n@SUM(1)'
        )
    browser = worked.logged_in(Role.AUDITOR)
    answer = browser.get("/audit/export.csv")
    assert answer.headers["content-disposition"].startswith('attachment; filename="audit-')
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    with worked.database.snapshot() as session:
        stored = session.scalars(select(AuditRow).order_by(AuditRow.id.desc())).all()
    assert [int(row["id"]) for row in rows] == [row.id for row in stored]
    assert rows[0]["event"] == "audit_exported", "the export is in its own export"
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert any(row["actor"] == "'=HYPERLINK(1)" for row in rows)
    lines = browser.get("/audit/export.jsonl?event=study_parked").text.splitlines()
    (record,) = map(json.loads, lines)
    assert record["detail"]["reason"] == '+cmd|"/c calc"\r\n@SUM(1)', "JSON needs no guard"
    assert browser.get("/audit/export.exe").status_code == 404


def test_every_format_of_the_command_can_be_downloaded_of_what_was_searched(worked: Page) -> None:
    browser = worked.logged_in(Role.AUDITOR)
    shown = browser.get("/audit?who=auditor").text
    addresses = re.findall(r'href="(/audit/export\.[^"]+)"', shown)
    assert [address.split("?")[1] for address in addresses] == ["who=auditor"] * len(Format)
    for address, form in zip(addresses, Format, strict=True):
        text = browser.get(address).text
        assert f"audit trail exported ({form.value})" in text or "audit_exported" in text
        assert "instance_received" not in text
    told = [d for _, d in events(worked.database, "audit_exported")]
    assert [(d["format"], d["filters"]) for d in told] == [(form.value, ["who"]) for form in Format]


def test_an_auditor_sees_what_one_person_did(worked: Page) -> None:
    worked.logged_in(Role.ADMIN).submit("/letters", "/letters/replay")
    told = words(worked.logged_in(Role.AUDITOR).get("/audit?who=admin&event=delivery_replayed"))
    assert "delivery to PACS queued again by hand" in told
    assert "No event fits" in words(worked.logged_in(Role.AUDITOR).get("/audit?who=viewer"))


def verified(browser: Browser) -> str:
    """What the check says when it is over."""
    browser.submit("/audit/verification", "/audit/verify")
    wait_until(lambda: "so far" not in browser.get("/audit/verification").text, 60.0)
    return words(browser.get("/audit/verification"))


@pytest.mark.both_databases
def test_the_check_of_the_trail_finds_it_unbroken_and_is_recorded(worked: Page) -> None:
    assert "unbroken" in verified(worked.logged_in(Role.AUDITOR))
    ((_, detail),) = events(worked.database, "audit_verified")
    assert detail["fault_count"] == 0
    assert "unbroken" in words(worked.logged_in(Role.VIEWER).get("/"))


@pytest.mark.both_databases
def test_the_check_of_the_trail_finds_one_changed_word_and_now_says_so(worked: Page) -> None:
    tamper(worked.database, "UPDATE audit_events SET actor = 'nobody' WHERE id = 3")
    told = verified(worked.logged_in(Role.AUDITOR))
    assert "broken" in told
    assert "event 3" in told
    assert "the audit trail did not hold" in words(worked.logged_in(Role.VIEWER).get("/")).lower()


def test_the_configuration_shows_every_key_and_says_what_is_a_default(page: Page) -> None:
    told = words(page.logged_in(Role.AUDITOR).get("/configuration"))
    assert "node.ae_title LESIONNODE" in told
    assert "worker.job_timeout_s 900.0 default" in told
    assert "peer[PACS].name PACS" in told
    assert "route[lesions].when.modality CT" in told
    assert "inference.pool default default" in told


def test_tables_within_a_section_are_shown_key_by_key(tmp_path: Path) -> None:
    receiver = '[[audit.syslog]]\nname = "siem"\nhost = "192.0.2.9"\nport = 601\ntransport = "tcp"\n'
    pools = '[[inference.pool]]\nname = "CT"\nmodalities = ["CT"]\n[[inference.pool]]\nname = "rest"\n'
    page = Page(tmp_path, f"[web]\n{receiver}{pools}")
    told = words(page.logged_in(Role.AUDITOR).get("/configuration"))
    assert "audit.syslog[siem].host 192.0.2.9" in told
    assert "inference.pool[rest].actors 1 default" in told
    assert "PosixPath" not in told
    assert "=" not in told, "no value is shown as a program writes it"


def test_a_changed_or_broken_file_is_noticed(page: Page) -> None:
    browser = page.logged_in(Role.ADMIN)
    config = page.folder / "node.toml"
    config.write_text(config.read_text() + "\n# a comment\n")
    assert "restart the node" in words(browser.get("/configuration"))
    config.write_text(config.read_text() + "\n[worker]\nnonsense = 1\n")
    told = words(browser.get("/configuration"))
    assert "does not hold" in told
    assert "worker.nonsense: unknown key" in told


def test_the_check_of_the_configuration_says_which_peer_does_not_answer(page: Page) -> None:
    told = words(page.logged_in(Role.ADMIN).submit("/configuration", "/configuration/check"))
    assert "peer PACS wrong" in told
    assert "database ok" in told


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://user:pw@chat.example/hooks/T0K3N?x=1", "https://chat.example/… (rest not shown)"),
        (None, "not set"),
        (True, "true"),
        (("a", "b"), "a, b"),
        (frozenset({"b", "a"}), "a, b"),
        ({"Manufacturer": "siemens|ge"}, "Manufacturer = siemens|ge"),
        (Path("/etc/key.pem"), "/etc/key.pem"),
    ],
)
def test_values_are_shown_without_what_may_be_a_secret(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_hostile_values_show_as_text_in_the_audit_too(worked: Page) -> None:
    with worked.database.transaction() as session:
        Audit("receiver").record(
            session, Event.ASSOCIATION_REJECTED, Subject(),
            calling_ae_title=held.HOSTILE_AE_TITLE, called_ae_title="X", address="192.0.2.1",
            reason="<script>alert(1)</script>",
        )  # fmt: skip
    browser = worked.logged_in(Role.AUDITOR)
    answer = browser.get("/audit?event=association_rejected")
    assert "<script>alert" not in answer.text
    assert "<b>AE" not in answer.text
    assert held.HOSTILE_AE_TITLE in words(answer)
