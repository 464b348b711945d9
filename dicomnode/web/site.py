"""What every page works with: the site (one per process) and the visit (one per request)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dicomnode.records.accounts import Role, SessionLimits
from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.settings.web import WebSettings
from dicomnode.web.limits import LoginLimiter
from dicomnode.web.rendering import environment
from dicomnode.web.results import Gallery
from dicomnode.web.seen import SeenStudies
from dicomnode.web.verification import Verification
from inference.registry import Registry


class Right(StrEnum):
    """What a page asks of its visitor."""

    SEE = "see"
    READ_AUDIT = "read the audit"
    SEE_CONFIGURATION = "see the configuration"
    ACT = "change something"


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset({Right.SEE}),
    Role.AUDITOR: frozenset({Right.SEE, Right.READ_AUDIT, Right.SEE_CONFIGURATION}),
    Role.ADMIN: frozenset(Right),
}

NAVIGATION: tuple[tuple[str, str, Right], ...] = (
    ("Now", "/", Right.SEE),
    ("Studies", "/studies", Right.SEE),
    ("Dead letters", "/letters", Right.SEE),
    ("Models", "/models", Right.SEE),
    ("Audit", "/audit", Right.READ_AUDIT),
    ("Configuration", "/configuration", Right.SEE_CONFIGURATION),
)
"""The pages in the head of every page, in this order."""

LARGEST_NUMBER = 2**31 - 1

NOTICES = {
    "changed": "Changed. The node follows at once.",
    "replayed": "Queued again.",
    "verifying": "The check of the audit trail has begun.",
    "verifying_already": "Somebody has begun a check already.",
    "nothing": "There was nothing to queue again: somebody was faster.",
}
"""What a page says after something was done; the address holds the key."""


@dataclass(frozen=True)
class Site:
    """One running web page."""

    settings: Settings
    database: Database
    config: Path
    config_digest: str
    """SHA-256 of the file as it was when it was read."""
    templates: Environment = field(default_factory=environment)
    limiter: LoginLimiter = field(default_factory=LoginLimiter)
    gallery: Gallery = field(default_factory=Gallery)
    seen: SeenStudies = field(default_factory=SeenStudies)
    verification: Verification = field(default_factory=Verification)

    @property
    def web(self) -> WebSettings:
        """The section `[web]`; its defaults where there is none (`dicomnode web`)."""
        return self.settings.web or WebSettings()

    @cached_property
    def registry(self) -> Registry:
        """The models folder, as it was when somebody last looked."""
        return Registry(self.settings.models.folder, self.settings.models.trusted_digests)

    @property
    def session_limits(self) -> SessionLimits:
        """How long a login lasts."""
        return SessionLimits(timedelta(seconds=self.web.session_s), timedelta(seconds=self.web.idle_s))

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page from its template."""
        return HTMLResponse(self.templates.get_template(template).render(**values), status)


@dataclass(frozen=True)
class Visitor:
    """Who is logged in, and from where."""

    name: str
    role: Role
    address: str
    session: str
    """Digest of the session's token: tells sessions apart."""
    csrf_token: str

    def may(self, right: Right) -> bool:
        """Whether the role has this right."""
        return right in RIGHTS[self.role]


@dataclass(frozen=True)
class Visit:
    """One request of somebody who is logged in and may see the page."""

    site: Site
    request: Request
    visitor: Visitor
    form: Mapping[str, str] = field(default_factory=dict)
    """What was posted; its CSRF token is checked already."""

    @property
    def audit(self) -> Audit:
        """Records in the name of the visitor."""
        return Audit(f"web {self.visitor.name}")

    def query(self, name: str) -> str:
        """One value of the address, without surrounding spaces; empty when absent."""
        return self.request.query_params.get(name, "").strip()

    def part(self, name: str) -> str:
        """One variable part of the path."""
        return str(self.request.path_params[name])

    def number(self, name: str) -> int:
        """A variable part of the path that is a number; no database knows larger ones."""
        return min(int(self.request.path_params[name]), LARGEST_NUMBER)

    def record(self, event: Event, subject: Subject | None = None, **detail: Any) -> None:
        """Write down what the visitor did, with the address from where, before anything is shown."""
        with self.site.database.transaction() as session:
            self.audit.record(session, event, subject or Subject(), address=self.visitor.address, **detail)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page with head and navigation."""
        navigation = [(name, path) for name, path, right in NAVIGATION if self.visitor.may(right)]
        return self.site.render(
            template,
            status,
            visitor=self.visitor,
            navigation=navigation,
            here=self.request.url.path,
            node=self.site.settings.node.ae_title,
            notice=NOTICES.get(self.query("notice"), ""),
            may_act=self.visitor.may(Right.ACT),
            **values,
        )

    def back_to(self, path: str, notice: str) -> Response:
        """After something was done: to a page of ours, which says so."""
        joint = "&" if "?" in path else "?"
        return RedirectResponse(f"{path}{joint}notice={notice}", status_code=303)

    def not_found(self, what: str) -> Response:
        """The page that says that something is not here."""
        return self.page("message.html", 404, title="Not found", message=what)
