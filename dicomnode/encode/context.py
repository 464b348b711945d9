"""What the encoders need to know besides lesions and measurements."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property

from pydicom import Dataset

from dicomnode.encode.equipment import RESEARCH_ONLY
from dicomnode.encode.writing import to_bytes
from dicomnode.forms import KINDS, ResultKind
from dicomnode.study import SourceVolume, text
from inference.bundle import ModelCard

TITLES: dict[ResultKind, str] = {
    "seg": "Lesions",
    "sr_measurements": "Diameters",
    "sr_volumes": "Volumes",
    "sr_not_seen": "No lesion seen",
    "labelmap": "Lesions",
    "sr_labelmap_volumes": "Volumes",
    "contours": "Outlines",
    "pictures": "Pictures",
    "pdf": "PDF",
    "rtstruct": "Structures",
}
"""What a series is called first, because viewers show only the beginning of a name."""
NOT_FOUND = "Not found"
"""In place of "No lesion seen", where the model looks for no lesions."""

LONG_STRING = 64
LARGEST_SOURCE_SERIES_NUMBER = 2_000_000


@dataclass(frozen=True)
class ResultContext:
    """One result of one model on one series.

    `model_digest` is the SHA-256 (hexadecimal) of the model bundle. `instance_number` is 1, or
    higher when this result supersedes an earlier one. `created_at` is an aware time from which all
    dates and times in the objects follow. `notes` are plain sentences for the reports.
    """

    source: SourceVolume
    card: ModelCard
    model_digest: str
    instance_number: int
    created_at: datetime
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError("created_at must be an aware time")
        if self.instance_number < 1:
            raise ValueError(f"instance_number starts at 1, got {self.instance_number}")

    @property
    def local_time(self) -> datetime:
        """`created_at` by the clock of the source images, as Timezone Offset From UTC (0008,0201) says it.

        All dates of an object share one offset, those copied from the source included. Where the
        source names no offset, that of `created_at` itself counts.
        """
        zone = _zone(text(self.source.series.header, "TimezoneOffsetFromUTC"))
        return self.created_at.astimezone(zone) if zone else self.created_at

    def series_description(self, kind: ResultKind, part: str = "") -> str:
        """SeriesDescription (0008,103E): kind of object, model, and that it is for research; at most 64.

        `part` says which part of several it is.
        """
        ending = f" ({RESEARCH_ONLY})"
        title = TITLES[kind] if kind != "sr_not_seen" or self.card.looks_for_lesions else NOT_FOUND
        return f"{title}{part}: {self.card.title}"[: LONG_STRING - len(ending)].rstrip() + ending

    def series_number(self, kind: ResultKind, page: int = 1) -> int:
        """SeriesNumber (0020,0011), the same on every run: 3 becomes 3901, 3902, ..."""
        number = text(self.source.series.header, "SeriesNumber")
        source = int(number) if number.isdigit() else 0
        if source > LARGEST_SOURCE_SERIES_NUMBER:
            source = 0
        return source * 1000 + 901 + KINDS.index(kind) + len(KINDS) * (page - 1)


@dataclass(frozen=True, eq=False)
class Result:
    """One object that goes back to the PACS."""

    kind: ResultKind
    dataset: Dataset
    page: int = 1
    """Of the objects of one kind: pictures, and segmentations with many frames, are several."""

    @cached_property
    def content(self) -> bytes:
        """The object as a file, written once: it is verified, stored and sent as these bytes."""
        return to_bytes(self.dataset)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()


def _zone(offset: str) -> timezone | None:
    """The time zone of a DICOM offset such as +0130; None when there is none that holds."""
    if len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isdigit():
        return None
    sign = -1 if offset[0] == "-" else 1
    minutes = 60 * int(offset[1:3]) + int(offset[3:])
    return timezone(sign * timedelta(minutes=minutes)) if minutes <= 14 * 60 else None
