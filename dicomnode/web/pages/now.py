"""What happens right now, problems first."""

from __future__ import annotations

from starlette.responses import Response

from dicomnode.web.access import page
from dicomnode.web.site import Right, Visit


def show_now(visit: Visit) -> Response:
    """The first page."""
    return visit.page("now.html")


ROUTES = (page("/", show_now, Right.SEE),)
