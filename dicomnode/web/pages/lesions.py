"""The pictures of one lesion: each image that it lies on, with its outline."""

from __future__ import annotations

from sqlalchemy.orm import Session
from starlette.responses import Response

from dicomnode.errors import PermanentError
from dicomnode.records.audit import Event, Subject
from dicomnode.web.access import page
from dicomnode.web.results import LesionPictures
from dicomnode.web.site import Right, Visit


def show_lesion(visit: Visit) -> Response:
    """One image of a lesion, and the way to its neighbours."""
    number = visit.number("number")
    try:
        with visit.site.database.snapshot() as session:
            shown = visit.site.gallery.lesion(session, visit.part("sop"), number)
    except PermanentError as error:
        return visit.not_found(f"This cannot be shown: {error}.")
    if shown is None:
        return visit.not_found("There is no such lesion.")
    _record(visit, shown)
    return visit.page("lesion.html", shown=shown, number=number, index=_index(visit, shown))


def send_picture(visit: Visit) -> Response:
    """The picture itself, as PNG."""
    number = visit.number("number")
    try:
        with visit.site.database.snapshot() as session:
            shown = visit.site.gallery.lesion(session, visit.part("sop"), number)
            if shown is None:
                return Response("no such lesion", 404, media_type="text/plain")
        _record(visit, shown)
        with visit.site.database.snapshot() as session:
            content = _picture(visit, session, shown, number)
    except PermanentError as error:
        return Response(str(error), 404, media_type="text/plain")
    return Response(content, media_type="image/png")


def _picture(visit: Visit, session: Session, shown: LesionPictures, number: int) -> bytes:
    index, close = _index(visit, shown), visit.query("close") == "1"
    return visit.site.gallery.picture(session, shown, number, index, close)


def _record(visit: Visit, shown: LesionPictures) -> None:
    """A picture belongs to the view of its study, unless it is asked for without one."""
    study = shown.result.study_instance_uid
    if not visit.site.seen.has(visit.visitor.session, study):
        visit.record(
            Event.PATIENT_DATA_VIEWED,
            Subject(study, shown.result.series_instance_uid, shown.result.sop_instance_uid),
            page="picture",
        )
        visit.site.seen.add(visit.visitor.session, study)


def _index(visit: Visit, shown: LesionPictures) -> int:
    """Which image: as the address says, from 1; the one that was measured, when it does not."""
    asked = visit.query("image")
    if not (asked.isascii() and asked.isdigit()):
        return shown.key_index
    return min(max(int(asked[:9]), 1), shown.count) - 1


ROUTES = (
    page("/results/{sop}/lesions/{number:int}", show_lesion, Right.SEE),
    page("/results/{sop}/lesions/{number:int}/picture.png", send_picture, Right.SEE),
)
