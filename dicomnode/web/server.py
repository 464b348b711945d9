"""Runs the application until it is told to stop."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog
import uvicorn

from dicomnode.errors import ConfigurationError
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.settings.web import WebSettings
from dicomnode.web.app import create_app

STOP_TIMEOUT_S = 10

log = structlog.get_logger()


def run(settings: Settings, database: Database, config: Path, stopping: threading.Event) -> None:
    """Serve the web page. Raises ConfigurationError when its port cannot be used.

    No access log: addresses of pages hold patient IDs. What was seen by whom is in the audit.
    """
    web = settings.web or WebSettings()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, database, config),
            host=web.host,
            port=web.port,
            http="h11",  # it refuses requests that are not by the letter, as the fuzzer knows
            access_log=False,
            log_level="error",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
    )
    serving = threading.Thread(target=_serve, args=(server, stopping))
    serving.start()
    stopping.wait()
    server.should_exit = True
    serving.join()
    if not server.started:
        raise ConfigurationError(
            f"cannot listen on {web.host}:{web.port}; stop what uses the port, or change web.port"
        )


def _serve(server: uvicorn.Server, stopping: threading.Event) -> None:
    try:
        server.run()
    except SystemExit:  # how uvicorn says that it cannot have the port
        log.error("web_page_not_started")
    finally:
        stopping.set()
