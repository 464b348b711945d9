"""Measurements and pictures of stored results, with the newest ones kept in memory.

Nothing is cached on the disk: pictures of patients would outlive the images that they were made of.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.errors import PermanentError
from dicomnode.records.tables import InstanceRow, ResultRow
from dicomnode.show.stored_pictures import LesionFrames, close_up, draw_stored, frames_by_segment
from dicomnode.show.stored_report import StoredLesion, StoredMeasurements, read_measurements
from dicomnode.study import Instance, read_instance

MOST_PICTURE_BYTES = 64 * 1024 * 1024
MOST_SEGMENTATIONS = 2
"""A decoded one holds a byte for every pixel of its frames: up to some hundred megabytes."""
REPORTS = ("sr_measurements", "sr_volumes", "sr_not_seen")

T = TypeVar("T")


class Newest(Generic[T]):
    """Keeps what was used last, up to a total weight. Safe for threads."""

    def __init__(self, most: int, weigh: Callable[[T], int] = lambda _: 1) -> None:
        self._most, self._weigh = most, weigh
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under `key`, or else what `make` makes."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > 1 and sum(map(self._weigh, self._kept.values())) > self._most:
                self._kept.popitem(last=False)
        return made


@dataclass(frozen=True)
class LesionPictures:
    """The images that one lesion lies on."""

    result: ResultRow
    lesion: StoredLesion | None
    frames: LesionFrames
    key_index: int

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.frames.frames)


@dataclass
class Gallery:
    """Reads stored results. One per process."""

    _pictures: Newest[bytes] = field(default_factory=lambda: Newest(MOST_PICTURE_BYTES, len))
    _segmentations: Newest[dict[int, LesionFrames]] = field(
        default_factory=lambda: Newest(MOST_SEGMENTATIONS)
    )

    def measurements(self, session: Session, job_id: int) -> StoredMeasurements | None:
        """What the reports of a job say; None when it has none. Raises PermanentError when unreadable."""
        rows = session.scalars(
            select(ResultRow).where(ResultRow.job_id == job_id, ResultRow.kind.in_(REPORTS))
        ).all()
        if not rows:
            return None
        ordered = sorted(rows, key=lambda row: REPORTS.index(row.kind))
        try:
            return read_measurements(_read(row) for row in ordered)
        except (AttributeError, KeyError, IndexError, ValueError) as error:
            raise PermanentError(f"the reports cannot be read ({type(error).__name__})") from error

    def lesion(self, session: Session, sop_instance_uid: str, number: int) -> LesionPictures | None:
        """The pictures of one segment of a segmentation; None when there is no such thing."""
        result = session.get(ResultRow, sop_instance_uid)
        if result is None or result.kind != "seg":
            return None
        segments = self._segmentations.get(
            (sop_instance_uid, result.sha256), lambda: frames_by_segment(_read(result))
        )
        if number not in segments:
            return None
        measured = self.measurements(session, result.job_id)
        lesions = measured.lesions if measured else ()
        place = sop_instance_uid, number
        lesion = next((one for one in lesions if (one.seg_uid, one.segment_number) == place), None)
        frames = segments[number]
        return LesionPictures(result, lesion, frames, frames.key_frame(lesion))

    def picture(
        self, session: Session, shown: LesionPictures, number: int, index: int, close: bool = False
    ) -> bytes:
        """One image of a lesion as PNG, whole or only what is around the lesion.

        Raises PermanentError when the image is gone or unreadable.
        """
        key = (shown.result.sop_instance_uid, shown.result.sha256, number, index, close)
        return self._pictures.get(key, lambda: _draw(session, shown, number, index, close))


def _draw(session: Session, shown: LesionPictures, number: int, index: int, close: bool) -> bytes:
    image_of = f"image {index + 1} of {shown.count} with this lesion"
    lines = () if close else (*caption(shown, number), image_of, "Research use only")
    study = shown.result.study_instance_uid
    picture = draw_stored(
        shown.frames, index, shown.lesion, lambda uid: _instance(session, study, uid), lines
    )
    if close:
        picture = close_up(picture, shown.frames.frames[index].mask)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def caption(shown: LesionPictures, number: int) -> list[str]:
    """What stands in a picture: the lesion and its diameters."""
    lesion = shown.lesion
    if lesion is None:
        return [f"Lesion {number}"]
    axes = [
        f"{name.lower()} {lesion.numbers[name].value:.1f} {lesion.numbers[name].unit}"
        for name in ("Long Axis", "Short Axis")
        if name in lesion.numbers
    ]
    return [f"{lesion.name}: {lesion.finding}", *([", ".join(axes)] if axes else [])]


def _read(row: ResultRow) -> Dataset:
    if row.purged_at is not None:
        raise PermanentError(f"the stored {row.kind} was deleted on {row.purged_at:%Y-%m-%d}, as configured")
    try:
        return dcmread(row.path)
    except (OSError, InvalidDicomError) as error:
        raise PermanentError(f"the stored {row.kind} cannot be read ({type(error).__name__})") from error


def _instance(session: Session, study_instance_uid: str, sop_instance_uid: str) -> Instance:
    row = session.scalar(
        select(InstanceRow)
        .where(
            InstanceRow.sop_instance_uid == sop_instance_uid,
            InstanceRow.study_instance_uid == study_instance_uid,
        )
        .order_by(InstanceRow.id.desc())
        .limit(1)
    )
    if row is None:
        raise PermanentError("the image is not on this node")
    if row.purged_at is not None:
        raise PermanentError(f"the image was deleted on {row.purged_at:%Y-%m-%d}, as configured")
    try:
        return read_instance(Path(row.path), row.sha256)
    except (OSError, InvalidDicomError) as error:
        raise PermanentError(f"the image cannot be read ({type(error).__name__})") from error
