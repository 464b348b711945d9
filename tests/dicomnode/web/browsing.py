"""A browser without a screen or scripts: Starlette's test client, with forms filled in as a person would."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from httpx2 import Response
from starlette.testclient import TestClient

from dicomnode.config import load_settings
from dicomnode.records.accounts import Role, UserRow, add_user
from dicomnode.records.db import Database
from dicomnode.records.passwords import hash_password
from dicomnode.settings.node import Settings
from dicomnode.web.app import create_app
from tests.databases import migrated_database
from tests.dicomnode.parts import write_config

PASSWORD = "correct horse battery"
ADDRESS = "192.0.2.7"


@cache
def _hash() -> str:
    return hash_password(PASSWORD)


@dataclass
class Page:
    """The web page of a node in `folder`, with one person of each role."""

    folder: Path
    more: str = "[web]\n"
    settings: Settings = field(init=False)
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        config = write_config(self.folder, self.more)
        self.settings = load_settings(config)
        self.database = migrated_database(self.settings)
        with self.database.transaction() as session:
            for role in Role:
                if session.get(UserRow, role.value) is None:
                    add_user(session, role.value, role, _hash())
        self.app = create_app(self.settings, self.database, config)

    def browser(self, address: str = ADDRESS) -> Browser:
        return Browser(TestClient(self.app, follow_redirects=False, client=(address, 50000)))

    def logged_in(self, role: Role = Role.ADMIN) -> Browser:
        browser = self.browser()
        answer = browser.log_in(role.value)
        assert answer.status_code == 303, answer.text
        return browser


@dataclass
class Browser:
    """One browser with its cookies."""

    client: TestClient

    def get(self, path: str, **headers: str) -> Response:
        return self.client.get(path, headers=headers)

    def post(self, path: str, form: dict[str, str], **headers: str) -> Response:
        return self.client.post(path, data=form, headers=headers)

    def log_in(self, name: str, password: str = PASSWORD, target: str = "/", **headers: str) -> Response:
        form = hidden_fields(self.client.get("/login", params={"next": target}).text)
        return self.post("/login", {**form, "name": name, "password": password}, **headers)

    def submit(self, page: str, action: str, **values: str) -> Response:
        """Press the button of the form on `page` that goes to `action`."""
        found = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', self.get(page).text, re.S)
        assert found, f"{page} has no form to {action}"
        return self.post(action, {**hidden_fields(found[0]), **values})


def hidden_fields(html: str) -> dict[str, str]:
    """Names and values of the hidden inputs."""
    inputs = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', html)
    return {name: unescape(value) for name, value in inputs}


def words(answer: Response) -> str:
    """What a person reads on a page: no tags, entities resolved, single spaces."""
    body = re.sub(r"<(head|script)\b.*?</\1>", " ", answer.text, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


def cookie_attributes(answer: Response, name: str) -> str:
    """The Set-Cookie line of one cookie, in lower case."""
    lines: list[Any] = [v for k, v in answer.headers.multi_items() if k == "set-cookie"]
    return next((str(line).lower() for line in lines if str(line).startswith(f"{name}=")), "")
