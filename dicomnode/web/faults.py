"""Faults of ours end here: a page that says so, and a line in the log that quotes nothing."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

log = structlog.get_logger()


class FaultPage:
    """Answers what a page raised.

    Left to the server, an exception would be logged with its words, and those may quote a patient's header.
    The address of the page is not logged either: it may hold a patient ID.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[], Response]) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = False

        async def note_start(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception as error:
            log.error("page_failed", error=type(error).__name__, exc_info=True)
            if not started:
                await self._answer()(scope, receive, send)
