"""Who gets in, who does not, and what the audit says of it.

Not covered: what a real browser does with the cookies (tests/web).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.routing import Mount, Route

from dicomnode.errors import ConfigurationError
from dicomnode.records.accounts import Role, SessionRow, UserRow, end_sessions
from dicomnode.records.db import utc_now
from dicomnode.web.app import ROUTES
from dicomnode.web.limits import WINDOW_S, LoginLimiter
from tests.dicomnode.parts import events, kinds, settings_in
from tests.dicomnode.web.browsing import ADDRESS, PASSWORD, Page, cookie_attributes, hidden_fields, words

OPEN_PATHS = {"/login", "/healthz", "/readyz", "/metrics"}
PROXY = '[web]\nhttps = true\nproxies = ["10.0.0.0/8"]\nuser_header = "X-Remote-User"\n'


def test_every_page_but_the_login_sends_a_stranger_to_the_login(page: Page) -> None:
    stranger = page.browser()
    paths = [route for route in ROUTES if isinstance(route, Route) and route.path not in OPEN_PATHS]
    assert paths
    for route in paths:
        for method in route.methods or ():
            path = route.path.replace("{number:int}", "1").replace("{", "").replace("}", "")
            answer = stranger.client.request(method, path.split(":")[0])
            assert answer.status_code == 303, (method, route.path)
            assert answer.headers["location"].startswith("/login")
    assert all(isinstance(route, Route | Mount) for route in ROUTES)


def test_the_right_password_opens_the_page_that_was_asked_for(page: Page) -> None:
    browser = page.browser()
    answer = browser.log_in("viewer", target="/studies?find=ACC")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/studies?find=ACC"
    assert browser.get("/").status_code == 200
    ((event, detail),) = events(page.database)
    assert event == "logged_in"
    assert detail == {"user": "viewer", "address": ADDRESS, "method": "password"}


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\tx"]
)
def test_the_login_leads_to_no_other_site(page: Page, target: str) -> None:
    assert page.browser().log_in("viewer", target=target).headers["location"] == "/"


@pytest.mark.parametrize(
    ("name", "password", "recorded"),
    [
        ("viewer", "wrong password", "viewer"),
        ("hunter2 typed here", PASSWORD, "(nobody)"),
        ("", "", "(nobody)"),
    ],
)
def test_a_wrong_name_or_password_is_refused_in_the_same_words_and_recorded(
    page: Page, name: str, password: str, recorded: str
) -> None:
    browser = page.browser()
    answer = browser.log_in(name, password)
    assert answer.status_code == 401
    assert "Name or password is wrong." in words(answer)
    assert browser.get("/").status_code == 303
    assert events(page.database) == [
        ("login_failed", {"user": recorded, "address": ADDRESS, "reason": "wrong name or password"})
    ]


def test_a_person_without_a_password_cannot_log_in_by_one(page: Page) -> None:
    with page.database.transaction() as session:
        session.get_one(UserRow, "viewer").password_hash = None
    assert page.browser().log_in("viewer", "").status_code == 401
    assert page.browser().log_in("viewer", "nobody has this password").status_code == 401


def test_after_five_wrong_passwords_even_the_right_one_is_not_heard(page: Page) -> None:
    for _ in range(5):
        assert page.browser().log_in("viewer", "guess guess guess").status_code == 401
    answer = page.browser().log_in("viewer")
    assert answer.status_code == 429
    assert "Too many wrong passwords" in words(answer)
    assert page.browser().log_in("auditor").status_code == 303, "another person is not locked out"
    assert page.browser("192.0.2.8").log_in("viewer").status_code == 303, "nor the same one elsewhere"


def test_guesses_are_forgotten_after_a_quarter_of_an_hour() -> None:
    now = 0.0
    limiter = LoginLimiter(clock=lambda: now)
    for _ in range(5):
        limiter.failed("viewer", ADDRESS)
    assert not limiter.may_try("viewer", ADDRESS)
    now = WINDOW_S + 1
    assert limiter.may_try("viewer", ADDRESS)


def test_many_names_from_one_address_and_one_name_from_many_addresses_are_limited() -> None:
    limiter = LoginLimiter(clock=lambda: 0.0)
    for number in range(30):
        limiter.failed(f"name{number}", ADDRESS)
    assert not limiter.may_try("fresh", ADDRESS)
    for number in range(50):
        limiter.failed("admin", f"198.51.100.{number}")
    assert not limiter.may_try("admin", "203.0.113.1")
    assert limiter.may_try("viewer", "203.0.113.1")


def test_attempts_that_are_not_heard_are_recorded_once_a_minute_for_each_address(page: Page) -> None:
    now = 0.0
    page.app.state.site.limiter.clock = lambda: now
    for now_s in (0.0, 1.0, 59.0, 61.0):
        now = now_s
        for address in (ADDRESS, "192.0.2.8"):
            for _ in range(8):
                page.browser(address).log_in("viewer", "guess guess guess")
    reasons = [detail["reason"] for _, detail in events(page.database, "login_failed")]
    assert reasons.count("wrong name or password") == 2 * 5
    assert reasons.count("too many wrong passwords") == 2 * 2


def test_logging_out_ends_the_session_on_the_server(page: Page) -> None:
    browser = page.logged_in()
    cookies = dict(browser.client.cookies)
    assert browser.submit("/", "/logout").headers["location"] == "/login"
    browser.client.cookies.update(cookies)
    assert browser.get("/").status_code == 303
    assert kinds(page.database) == ["logged_in", "logged_out"]


@pytest.mark.parametrize(
    "limit", [{"created_at": timedelta(hours=13)}, {"last_seen_at": timedelta(minutes=31)}]
)
def test_a_session_runs_out(page: Page, limit: dict[str, timedelta]) -> None:
    browser = page.logged_in()
    assert browser.get("/").status_code == 200
    with page.database.transaction() as session:
        row = session.scalars(select(SessionRow)).one()
        for column, age in limit.items():
            setattr(row, column, utc_now() - age)
    assert browser.get("/").status_code == 303


def test_a_session_that_is_used_stays_open(page: Page) -> None:
    browser = page.logged_in()
    with page.database.transaction() as session:
        session.scalars(select(SessionRow)).one().last_seen_at = utc_now() - timedelta(minutes=20)
    assert browser.get("/").status_code == 200
    with page.database.snapshot() as session:
        assert utc_now() - session.scalars(select(SessionRow)).one().last_seen_at < timedelta(minutes=1)


def test_a_page_that_keeps_itself_up_to_date_does_not_keep_the_session_open(page: Page) -> None:
    browser = page.logged_in()
    for status in (200, 303):
        with page.database.transaction() as session:
            session.scalars(select(SessionRow)).one().last_seen_at -= timedelta(minutes=20)
        assert browser.get("/", **{"X-Refresh": "1"}).status_code == status


def test_a_changed_person_is_logged_out_everywhere(page: Page) -> None:
    browser = page.logged_in()
    with page.database.transaction() as session:
        end_sessions(session, "admin")
    assert browser.get("/").status_code == 303


def test_the_database_holds_no_token_that_a_thief_could_use(page: Page) -> None:
    browser = page.logged_in()
    token = browser.client.cookies["dicomnode_session"]
    with page.database.snapshot() as session:
        row = session.scalars(select(SessionRow)).one()
        hashes = session.scalars(select(UserRow.password_hash)).all()
    assert token not in vars(row).values()
    assert all(text is not None and text.startswith("$argon2id$") for text in hashes)


def test_a_form_without_the_token_of_the_session_does_nothing(page: Page) -> None:
    browser = page.logged_in()
    for form in ({}, {"csrf": ""}, {"csrf": "x" * 43}):
        assert browser.post("/logout", form).status_code == 403
    form = hidden_fields(browser.get("/").text)
    assert browser.post("/logout", form, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.get("/").status_code == 200
    assert browser.post("/logout", form).status_code == 303


def test_the_login_form_works_only_in_the_browser_that_it_was_given_to(page: Page) -> None:
    form = hidden_fields(page.browser().get("/login").text)
    answer = page.browser().post("/login", {**form, "name": "admin", "password": PASSWORD})
    assert answer.status_code == 403
    assert kinds(page.database) == []


def test_a_huge_form_is_refused(page: Page) -> None:
    assert page.browser().post("/login", {"name": "x" * 70_000}).status_code == 413


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(page: Page, tmp_path: Path) -> None:
    attributes = cookie_attributes(page.browser().log_in("viewer"), "dicomnode_session")
    assert "httponly" in attributes
    assert "samesite=lax" in attributes
    assert "secure" not in attributes
    (tmp_path / "tls").mkdir()
    behind_tls = Page(tmp_path / "tls", "[web]\nhttps = true\n").browser()
    behind_tls.client.base_url = "https://testserver"
    assert "secure" in cookie_attributes(behind_tls.log_in("viewer"), "dicomnode_session")


def test_a_proxy_names_who_it_has_let_in_and_the_node_says_what_they_may(tmp_path: Path) -> None:
    page = Page(tmp_path, PROXY)
    browser = page.browser("10.1.2.3")
    browser.client.base_url = "https://testserver"
    said = {"X-Remote-User": "auditor", "X-Forwarded-For": "6.6.6.6, 192.0.2.99"}
    answer = browser.get("/", **said)
    assert answer.status_code == 200
    assert "auditor" in words(answer)
    assert browser.get("/", **said).status_code == 200
    assert events(page.database) == [
        ("logged_in", {"user": "auditor", "address": "192.0.2.99", "method": "proxy"})
    ], "one login for one session, from the address that the proxy saw"
    assert browser.get("/", **{**said, "X-Remote-User": "viewer"}).status_code == 200
    assert [d["user"] for _, d in events(page.database, "logged_in")] == ["auditor", "viewer"]


def test_a_proxy_cannot_let_in_who_is_not_known_here(tmp_path: Path) -> None:
    answer = Page(tmp_path, PROXY).browser("10.1.2.3").get("/", **{"X-Remote-User": "nobody"})
    assert answer.status_code == 403
    assert "dicomnode users add" in words(answer)


def test_the_header_of_the_proxy_is_nothing_from_anywhere_else(tmp_path: Path) -> None:
    page = Page(tmp_path, PROXY)
    said = {"X-Remote-User": "admin", "X-Forwarded-For": "10.1.2.3"}
    assert page.browser("192.0.2.7").get("/", **said).status_code == 303
    (tmp_path / "other").mkdir()
    assert Page(tmp_path / "other").browser("10.1.2.3").get("/", **said).status_code == 303, "not configured"


@pytest.mark.parametrize(
    ("web", "told"),
    [
        ('host = "0.0.0.0"', "in the clear"),
        ('user_header = "X-Remote-User"', "name them in proxies"),
        ('user_header = "bad header"', "web.user_header"),
    ],
)
def test_an_unsafe_configuration_is_refused(tmp_path: Path, web: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        settings_in(tmp_path, f"[web]\n{web}\n")


def test_every_answer_forbids_what_is_not_ours(page: Page) -> None:
    browser = page.logged_in()
    for path in ("/", "/login", "/no/such/page", "/static/style.css"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
    assert browser.get("/").headers["cache-control"] == "no-store"


def test_a_fault_of_ours_shows_and_logs_nothing_of_what_it_was_about(
    page: Page, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Zebrowska^Hildegard")

    browser = page.logged_in()
    monkeypatch.setattr("dicomnode.web.pages.studies.study_page", fail)
    answer = browser.get("/studies?find=&state=&sender=PAT-77431")
    assert answer.status_code == 500
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    (line,) = [entry for entry in logs if entry["event"] == "page_failed"]
    assert line["error"] == "RuntimeError"
    for told in (answer.text, str(line)):
        assert "Zebrowska" not in told
        assert "PAT-77431" not in told


def test_only_an_admin_may_change_something() -> None:
    from dicomnode.web.site import RIGHTS, Right

    assert [role for role in Role if Right.ACT in RIGHTS[role]] == [Role.ADMIN]
    assert [role for role in Role if Right.READ_AUDIT in RIGHTS[role]] == [Role.AUDITOR, Role.ADMIN]
    assert all(Right.SEE in RIGHTS[role] for role in Role)
