"""Logging in and out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from sqlalchemy import delete
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dicomnode.records.accounts import SessionRow, UserRow
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.passwords import is_password
from dicomnode.web.access import (
    SESSION_COOKIE,
    client_address,
    is_own_form,
    log_in,
    open_page,
    page,
    set_session_cookie,
)
from dicomnode.web.site import Right, Site, Visit

LOGIN_COOKIE = "dicomnode_login"
"""Ties the form to the browser that it was given to, before there is a session."""
LOGIN_COOKIE_S = 3600
WRONG = "Name or password is wrong."
TOO_OFTEN = "Too many wrong passwords. Wait a quarter of an hour, or ask an administrator."


def show_login(site: Site, request: Request, _form: Mapping[str, str]) -> Response:
    """The form."""
    return _login_page(site, _safe_target(request.query_params.get("next", "/")))


def log_in_by_password(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    """Compare the password; every outcome is recorded, and of those that are not heard one a minute."""
    target = _safe_target(form.get("next", "/"))
    token = request.cookies.get(LOGIN_COOKIE, "")
    if not token or not is_own_form(request, form, token):
        return _login_page(site, target, "The form was out of date. Please try again.", 403)
    name, address = form.get("name", "").strip(), client_address(site, request)
    if not site.limiter.may_try(name, address):
        if site.limiter.refused(address):
            _record_failure(site, name, address, "too many wrong passwords")
        return _login_page(site, target, TOO_OFTEN, 429)
    with site.database.snapshot() as session:
        user = session.get(UserRow, name)
    if not is_password(user.password_hash if user else None, form.get("password", "")):
        site.limiter.failed(name, address)
        _record_failure(site, name, address, "wrong name or password")
        return _login_page(site, target, WRONG, 401)
    assert user is not None
    site.limiter.succeeded(name, address)
    with site.database.transaction() as session:
        new_token, _ = log_in(site, request, session, user, "password")
    response = RedirectResponse(target, status_code=303)
    set_session_cookie(site, response, new_token)
    response.delete_cookie(LOGIN_COOKIE)
    return response


def log_out(visit: Visit) -> Response:
    """End this session."""
    with visit.site.database.transaction() as session:
        session.execute(delete(SessionRow).where(SessionRow.token_sha256 == visit.visitor.session))
        visit.audit.record(
            session, Event.LOGGED_OUT, Subject(), user=visit.visitor.name, address=visit.visitor.address
        )
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE)
    return response


def _login_page(site: Site, target: str, problem: str = "", status: int = 200) -> Response:
    token = secrets.token_urlsafe(32)
    response = site.render(
        "login.html", status, csrf=token, next=target, problem=problem, node=site.settings.node.ae_title
    )
    response.set_cookie(
        LOGIN_COOKIE, token, max_age=LOGIN_COOKIE_S, httponly=True, samesite="strict", secure=site.web.https
    )
    return response


def _record_failure(site: Site, name: str, address: str, reason: str) -> None:
    with site.database.transaction() as session:
        user = name if session.get(UserRow, name) is not None else "(nobody)"
        Audit("web").record(session, Event.LOGIN_FAILED, Subject(), user=user, address=address, reason=reason)


def _safe_target(path: str) -> str:
    """A path of this site; anything that a browser could take for another one becomes the first page."""
    plain = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return path if plain else "/"


ROUTES = (
    open_page("/login", show_login),
    open_page("/login", log_in_by_password, ("POST",)),
    page("/logout", log_out, Right.SEE, ("POST",)),
)
