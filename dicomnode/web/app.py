"""The web application: every page, put together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.web import health
from dicomnode.web.faults import FaultPage
from dicomnode.web.headers import SecurityHeaders
from dicomnode.web.pages import account, audit, configuration, lesions, letters, models, now, studies, study
from dicomnode.web.site import Site

STATIC = Path(__file__).parent / "static"

ROUTES: Sequence[BaseRoute] = (
    *account.ROUTES,
    *now.ROUTES,
    *models.ROUTES,
    *health.ROUTES,
    *studies.ROUTES,
    *study.ROUTES,
    *lesions.ROUTES,
    *letters.ROUTES,
    *audit.ROUTES,
    *configuration.ROUTES,
    Mount("/static", StaticFiles(directory=STATIC), name="static"),
)


def create_app(settings: Settings, database: Database, config: Path) -> Starlette:
    """The application for one node. `config` is the file that `settings` come from."""
    site = Site(settings, database, config, hashlib.sha256(config.read_bytes()).hexdigest())
    app = Starlette(
        routes=list(ROUTES),
        middleware=[
            Middleware(SecurityHeaders, https=site.web.https),
            Middleware(FaultPage, answer=partial(_say_fault, site)),
        ],
        exception_handlers={HTTPException: _say_status},
    )
    app.state.site = site
    app.state.metrics = health.metrics_of(settings, database, config)
    return app


def _say_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    site: Site = request.app.state.site
    message = "There is no such page." if error.status_code == 404 else str(error.detail)
    return site.render("outside.html", error.status_code, title=str(error.detail), message=message)


def _say_fault(site: Site) -> Response:
    message = "This page has failed; the log of the node says where."
    return site.render("outside.html", 500, title="Internal error", message=message)
