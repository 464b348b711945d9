"""What machines ask without a login: metrics, whether the process lives, whether the node is ready."""

from __future__ import annotations

import hashlib
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dicomnode.observe.metrics import NodeCollector, exposition, registry_of
from dicomnode.observe.readiness import readiness
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.web.site import Site


def metrics_of(settings: Settings, database: Database, config: Path) -> CollectorRegistry:
    """What `/metrics` answers from; one for each process."""
    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    return registry_of(NodeCollector(settings, database, digest))


def show_metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(exposition(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


async def say_alive(_: Request) -> Response:
    """This process answers; whether the node can work is another question."""
    return PlainTextResponse("ok\n")


def say_ready(request: Request) -> Response:
    """200 when the node can take studies, else 503, and why."""
    site: Site = request.app.state.site
    conditions = readiness(site.settings, site.database)
    ready = all(condition.good for condition in conditions)
    content = {condition.name: condition.detail for condition in conditions}
    return JSONResponse({"ready": ready, **content}, 200 if ready else 503)


ROUTES = (
    Route("/metrics", show_metrics),
    Route("/healthz", say_alive),
    Route("/readyz", say_ready),
)
