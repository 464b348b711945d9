"""Bytes as an HTTP request to the web page: path, query, headers, cookies and form, in one process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h11

from dicomnode.receive.intake import Intake
from dicomnode.records.accounts import Role
from dicomnode.records.audit import Audit
from dicomnode.spool import Spool
from dicomnode.web.access import SESSION_COOKIE
from tests.dicomnode.parts import arrival, image
from tests.dicomnode.web.browsing import ADDRESS, Page, hidden_fields

SESSION, CSRF = b"SESSION-OF-AN-ADMINISTRATOR", b"TOKEN-OF-HIS-FORMS"
"""Stand in the first input for what differs from run to run."""
NOT_READY = 503
"""What /readyz says of a node without a worker."""
MODEL = "/models/" + "0" * 64
PAGES = (
    "/", "/studies", "/studies?q=PAT-77431&state=receiving&cursor=1", "/studies/1.2.3.4", "/letters",
    "/models", MODEL, MODEL + "/promote", "/audit", "/audit?study=1.2.3.4&event=x&before=9",
    "/audit/verification", "/audit/export.csv?from=2026-01-01", "/audit/export.jsonl", "/configuration",
    "/login", "/login?next=/studies", "/results/1.2.3/lesions/1", "/results/1.2.3/lesions/1/picture.png",
    "/metrics", "/healthz", "/readyz", "/static/page.css",
)  # fmt: skip
FORMS = (
    "/login", "/logout", "/audit/verify", "/configuration/check", "/letters/replay",
    "/letters/deliveries/1/replay", "/letters/jobs/1/replay", "/studies/1.2.3.4/replay",
    "/studies/1.2.3.4/jobs/1/replay", MODEL + "/retire",
)  # fmt: skip


def requests() -> list[bytes]:
    """A good request for every page and every form."""
    common = b"Host: node\r\nCookie: %s=%s\r\nX-Forwarded-For: 192.0.2.8\r\nIf-None-Match: x\r\n" % (
        SESSION_COOKIE.encode(),
        SESSION,
    )
    form = b"csrf=%s&name=admin&password=x&reason=why&destination=PACS&next=%%2F" % CSRF
    gets = [b"GET %s HTTP/1.1\r\n%s\r\n" % (path.encode(), common) for path in PAGES]
    return gets + [b"POST %s HTTP/1.1\r\n%s\r\n%s" % (path.encode(), common, form) for path in FORMS]


def asked(content: bytes) -> str:
    """Whatever is asked, the answer is never that the page failed."""
    app, session, csrf = _page()
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(content.replace(SESSION, session).replace(CSRF, csrf))
    try:
        request = reader.next_event()
    except h11.RemoteProtocolError:
        return "refused"
    if not isinstance(request, h11.Request):  # it is not whole
        return "refused"
    status = asyncio.run(_status(app, _scope(request), reader.trailing_data[0]))
    assert status < 500 or status == NOT_READY, f"status {status}"
    return "taken" if status < 400 else "refused"


def _scope(request: h11.Request) -> dict[str, Any]:
    """As uvicorn makes it of a request that h11 has parsed."""
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": (ADDRESS, 50000),
        "server": ("node", 80),
        "root_path": "",
    }


async def _status(app: Any, scope: dict[str, Any], body: bytes) -> int:
    """The status of the answer; the whole answer is made."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    status = 0

    async def receive() -> MutableMapping[str, Any]:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    return status


@cache
def _page() -> tuple[Any, bytes, bytes]:
    """The page of a node that has received one study; cookie and form token of an administrator."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-web-"))
    page = Page(folder)
    spool = Spool(page.settings.spool)
    spool.prepare()
    Intake(spool, page.database, Audit("receiver")).take(arrival(image()))
    browser = page.logged_in(Role.ADMIN)
    session = browser.client.cookies[SESSION_COOKIE]
    csrf = hidden_fields(browser.get("/").text)["csrf"]
    return page.app, session.encode(), csrf.encode()
