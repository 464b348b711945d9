"""Who a request comes from, and whether they may have what they ask for."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dicomnode.errors import PermanentError
from dicomnode.records.accounts import (
    SEEN_INTERVAL,
    Role,
    SessionRow,
    UserRow,
    keep_open,
    open_session,
    remove_old_sessions,
    session_of,
)
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import utc_now
from dicomnode.web.site import Right, Site, Visit, Visitor

SESSION_COOKIE = "dicomnode_session"
LARGEST_FORM_BYTES = 64 * 1024
REFRESH = "x-refresh"
"""What a page says that fetches itself again (static/page.js): nobody uses the session then."""

View = Callable[[Visit], Response]
OpenView = Callable[[Site, Request, Mapping[str, str]], Response]


class Refused(Exception):
    """A request that is not answered with a page; the message is shown."""


@dataclass(frozen=True)
class Known:
    """A visitor, and the token of a session that was opened just now."""

    visitor: Visitor
    new_token: str | None = None


def page(path: str, view: View, right: Right, methods: tuple[str, ...] = ("GET",)) -> Route:
    """A route for people who are logged in and have `right`. Posts must carry the session's token."""

    async def endpoint(request: Request) -> Response:
        form = await _form(request)
        if form is None:
            return _refuse(_site(request), "This form is too large.", 413)
        return await run_in_threadpool(_serve, request, form, view, right)

    return Route(path, endpoint, methods=list(methods))


def open_page(path: str, view: OpenView, methods: tuple[str, ...] = ("GET",)) -> Route:
    """A route for everybody: the login, and what machines ask for."""

    async def endpoint(request: Request) -> Response:
        form = await _form(request)
        if form is None:
            return _refuse(_site(request), "This form is too large.", 413)
        return await run_in_threadpool(view, _site(request), request, form)

    return Route(path, endpoint, methods=list(methods))


def _serve(request: Request, form: Mapping[str, str], view: View, right: Right) -> Response:
    site = _site(request)
    try:
        known = identify(site, request)
    except Refused as refusal:
        return _refuse(site, str(refusal))
    if known is None:
        return _to_login(request)
    visitor = known.visitor
    visit = Visit(site, request, visitor, form)
    if request.method == "POST" and not is_own_form(request, form, visitor.csrf_token):
        return visit.page(
            "message.html", 403, title="Refused", message="This form is out of date: go back and reload."
        )
    if not visitor.may(right):
        words = f"This page is for people who may {right.value}; you are {visitor.role.value}."
        return visit.page("message.html", 403, title="Not for you", message=words)
    try:
        response = view(visit)
    except PermanentError as error:
        return visit.page("message.html", 409, title="Not possible", message=f"{error}.")
    if known.new_token is not None:
        set_session_cookie(site, response, known.new_token)
    return response


def identify(site: Site, request: Request) -> Known | None:
    """Who asks: by the session cookie, or by the word of a reverse proxy. Raises Refused."""
    found = _by_cookie(site, request)
    name = proxy_user(site, request)
    if name is None or (found is not None and found.name == name):
        return Known(found) if found is not None else None
    with site.database.transaction() as session:
        user = session.get(UserRow, name)
        if user is None:
            raise Refused(
                "The proxy has let you in, but nobody of your name may use this node; "
                "an administrator can add you with: dicomnode users add"
            )
        token, visitor = log_in(site, request, session, user, "proxy")
    return Known(visitor, token)


def log_in(site: Site, request: Request, session: Session, user: UserRow, method: str) -> tuple[str, Visitor]:
    """Open a session and record it, in the caller's transaction."""
    address = client_address(site, request)
    remove_old_sessions(session, site.session_limits)
    token, row = open_session(session, user, address)
    Audit(f"web {user.name}").record(
        session, Event.LOGGED_IN, Subject(), user=user.name, address=address, method=method
    )
    return token, _visitor(row, user, address)


def _by_cookie(site: Site, request: Request) -> Visitor | None:
    token = request.cookies.get(SESSION_COOKIE)
    if not token:
        return None
    with site.database.snapshot() as session:
        found = session_of(session, token, site.session_limits)
    if found is None:
        return None
    row, user = found
    if REFRESH not in request.headers and utc_now() - row.last_seen_at > SEEN_INTERVAL:
        with site.database.transaction() as session:
            keep_open(session, row)
    return _visitor(row, user, client_address(site, request))


def _visitor(row: SessionRow, user: UserRow, address: str) -> Visitor:
    return Visitor(user.name, Role(user.role), address, row.token_sha256, row.csrf_token)


def set_session_cookie(site: Site, response: Response, token: str) -> None:
    """Out of reach of scripts, and never sent with a form of another site."""
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=int(site.web.session_s),
        httponly=True,
        samesite="lax",
        secure=site.web.https,
    )


def proxy_user(site: Site, request: Request) -> str | None:
    """The name in the header that is set for it, when it comes from a proxy that may say so."""
    if site.web.user_header is None or not _is_proxy(site, _peer_address(request)):
        return None
    return request.headers.get(site.web.user_header) or None


def client_address(site: Site, request: Request) -> str:
    """Where a request comes from: the last address in X-Forwarded-For that is no proxy of ours."""
    address = _peer_address(request)
    forwarded = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",")]
    while forwarded and _is_proxy(site, address):
        claimed = forwarded.pop()
        if not _is_address(claimed):
            break
        address = claimed
    return address


def is_own_form(request: Request, form: Mapping[str, str], token: str) -> bool:
    """Whether a form comes from a page of ours: its token, and what the browser says of its origin."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    return hmac.compare_digest(form.get("csrf", "").encode(), token.encode())


def _peer_address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _is_proxy(site: Site, address: str) -> bool:
    if not _is_address(address):
        return False
    return any(
        ipaddress.ip_address(address) in ipaddress.ip_network(n, strict=False) for n in site.web.proxies
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _to_login(request: Request) -> Response:
    target = request.url.path
    if request.method != "GET":
        target = "/"
    elif request.url.query:
        target += f"?{request.url.query}"
    return RedirectResponse(f"/login?next={quote(target)}", status_code=303)


def _refuse(site: Site, message: str, status: int = 403) -> Response:
    return site.render("outside.html", status, title="Refused", message=message)


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of an ordinary form, the last of each name; None when it is larger than any of ours."""
    body = b""
    if request.method == "POST":
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_FORM_BYTES:
                return None
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site
