"""The web page of a node that has worked, served by `dicomnode web`'s own server to a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from dicomnode.selftest.temporary import free_port
from dicomnode.settings.web import WebSettings
from dicomnode.web.server import run
from tests.dicomnode.parts import wait_until
from tests.dicomnode.web import browsing, hospital
from tests.dicomnode.web.browsing import PASSWORD
from tests.dicomnode.web.hospital import Hospital
from tests.viewers.browser import browser

PICTURES = Path(".cache/web")
TIMEOUT_MS = 90_000
DESK: Any = {"width": 1360, "height": 900}
PHONE: Any = {"width": 390, "height": 844}


@dataclass
class Desk:
    """A browser in front of one node."""

    running: Browser
    address: str
    node: browsing.Page
    hospital: Hospital
    requests: list[str] = field(default_factory=list)
    """Every address that any page has asked for."""
    problems: list[str] = field(default_factory=list)
    """What the browser complained about: errors of scripts, and what the security policy refused."""

    def open(self, name: str | None = None, scheme: Any = "light", size: Any = DESK) -> Page:
        """A fresh browser profile, logged in as `name` if given."""
        context: BrowserContext = self.running.new_context(viewport=size, color_scheme=scheme)
        context.set_default_timeout(TIMEOUT_MS)
        context.on("request", lambda request: self.requests.append(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        page.on("console", lambda said: self._on_console(page, said))
        if name is not None:
            self.log_in(page, name)
        return page

    def _on_console(self, page: Page, said: Any) -> None:
        # Chromium also reports answers of 4xx as errors; tests of refusals look at these themselves.
        if said.type == "error" and "status of 4" not in said.text:
            self.problems.append(f"{page.url}: {said.text}")

    def log_in(self, page: Page, name: str, password: str = PASSWORD) -> None:
        """Type name and password, and press the button."""
        page.goto(f"{self.address}/login")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_load_state()

    def study(self, accession_number: str) -> str:
        return f"{self.address}/studies/{self.hospital.studies[accession_number]}"

    def picture(self, page: Page, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """Over before others of the same process start a browser of theirs: Playwright allows one at a time."""
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def hospital_of_all(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return hospital.build(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def desk(running: Browser, hospital_of_all: Hospital, tmp_path: Path) -> Iterator[Desk]:
    node = hospital_of_all.copy(tmp_path)
    port = free_port()
    settings = node.settings.model_copy(update={"web": WebSettings(port=port)})
    stopping = threading.Event()
    server = threading.Thread(target=run, args=(settings, node.database, tmp_path / "node.toml", stopping))
    server.start()
    found = Desk(running, f"http://127.0.0.1:{port}", node, hospital_of_all)
    try:
        wait_until(lambda: _answers(port), 60.0)
        yield found
    finally:
        for context in running.contexts:
            context.close()
        stopping.set()
        server.join(60)
    assert not found.problems
    assert all(url.startswith(found.address) for url in found.requests), "a request left the origin"


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
