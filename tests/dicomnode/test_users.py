"""Who may use the web page, as an administrator says it by command, and who that was in the audit.

Not covered: what a role may see (`web/`), and accounts that the kernel itself keeps through sudo: that a
login sets `/proc/self/loginuid` is the system's promise, and needs its pam_loginuid.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from dicomnode.commands import person
from dicomnode.errors import PermanentError
from dicomnode.records.tables import AuditRow
from tests.dicomnode.console import Command
from tests.dicomnode.parts import events
from tests.dicomnode.web.browsing import PASSWORD, Page

pytestmark = pytest.mark.both_databases

ANOTHER = "another horse battery"


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


@pytest.fixture
def command(page: Page, tmp_path: Path) -> Command:
    return Command(tmp_path / "node.toml")


def password_from(folder: Path, password: str) -> tuple[str, str]:
    """The option that takes `password` from the first line of a file."""
    path = folder / "password"
    path.write_text(f"{password}\nnot this line\n", "utf-8")
    return "--password-file", str(path)


def test_a_person_comes_changes_and_goes_by_command(page: Page, command: Command, tmp_path: Path) -> None:
    browser = page.browser()
    command("users", "add", "m.keller", "--role", "viewer", *password_from(tmp_path, PASSWORD))
    assert browser.log_in("m.keller").status_code == 303
    assert browser.get("/studies").status_code == 200

    command("users", "change", "m.keller", "--role", "auditor", *password_from(tmp_path, ANOTHER))
    assert browser.get("/studies").headers["location"].startswith("/login"), "open sessions end"
    assert browser.log_in("m.keller", PASSWORD).status_code != 303
    assert browser.log_in("m.keller", ANOTHER).status_code == 303
    assert browser.get("/audit").status_code == 200
    assert {"name": "m.keller", "role": "auditor", "login": "password"}.items() <= next(
        row.items() for row in command.json("users", "list") if row["name"] == "m.keller"
    )

    command("users", "remove", "m.keller")
    assert browser.get("/studies").headers["location"].startswith("/login")
    assert browser.log_in("m.keller", ANOTHER).status_code != 303
    assert [told for told in events(page.database) if told[0].startswith("user_")] == [
        ("user_added", {"user": "m.keller", "role": "viewer"}),
        ("user_changed", {"user": "m.keller", "changed": ["role", "password"]}),
        ("user_removed", {"user": "m.keller"}),
    ]


def test_what_cannot_be_is_refused_with_its_remedy(page: Page, command: Command, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for arguments, remedy in (
        (("add", "viewer", "--role", "admin", "--no-password"), "dicomnode users change"),
        (("add", "two words", "--role", "admin", "--no-password"), "letters, digits"),
        (
            ("add", "short", "--role", "viewer", *password_from(tmp_path, "short")),
            "10 to 1024",
        ),
        (("add", "no", "--role", "viewer", "--password-file", str(tmp_path / "none")), "cannot be read"),
        (("add", "no", "--role", "viewer", "--password-file", str(binary)), "name a file of text"),
        (("change", "viewer"), "give --role"),
        (("remove", "nobody"), "dicomnode users list"),
    ):
        with pytest.raises(PermanentError, match=remedy):
            command("users", *arguments)
    assert not [kind for kind, _ in events(page.database) if kind.startswith("user_")]


def test_the_trail_names_the_account_and_not_what_the_environment_says(page: Page, tmp_path: Path) -> None:
    typed = ["users", "remove", "viewer", "--config", str(tmp_path / "node.toml")]
    lies = {name: "mallory" for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER")}
    subprocess.run(
        [sys.executable, "-m", "dicomnode", *typed], env={**os.environ, **lies}, check=True, timeout=120
    )
    with page.database.snapshot() as session:
        actor = session.scalars(select(AuditRow.actor).where(AuditRow.event == "user_removed")).one()
    assert actor.startswith(f"admin {pwd.getpwuid(os.getuid()).pw_name}")
    assert "mallory" not in actor


@pytest.mark.parametrize(
    ("login_uid", "uid", "told"),
    [
        ("0", 65534, "{nobody} (logged in as {root})"),  # sudo -u, su: the login stays
        ("0", 0, "{root}"),
        ("4294967295", 0, "{root}"),  # a service, or a container: nobody logged in
        (None, 0, "{root}"),  # a kernel without it
        ("0", 3_000_000_001, "uid 3000000001 (logged in as {root})"),  # a container's account without a name
    ],
)
def test_an_account_is_named_with_the_login_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login_uid: str | None, uid: int, told: str
) -> None:
    if login_uid is not None:
        (tmp_path / "loginuid").write_text(login_uid)
    monkeypatch.setattr(person, "LOGIN_UID", tmp_path / "loginuid")
    monkeypatch.setattr(os, "getuid", lambda: uid)
    names = {"root": pwd.getpwuid(0).pw_name, "nobody": pwd.getpwuid(65534).pw_name}
    assert person.account() == told.format(**names)
