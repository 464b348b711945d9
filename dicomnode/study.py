"""Instances, series and studies by their headers, and a series as a grid of source frames."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from dicomnode.header_index import HeaderIndex
from dicomnode.part10 import Header, read_header, read_part10
from dicomnode.plain_values import TEXT_VRS, plain_text, tag_and_vr
from inference.volume import Volume

LARGEST_TELLING_SEQUENCE_BYTES = 1_000_000


@dataclass(frozen=True, eq=False)
class Instance:
    """One stored instance: its file, its header without pixel data, and the digest of its content."""

    path: Path
    stored_header: Header
    sha256: str

    @property
    def header(self) -> FileDataset:
        """The whole header as a pydicom data set."""
        return self.stored_header.dataset

    @property
    def values(self) -> FileDataset | HeaderIndex:
        """The header for those who want a few values of it."""
        return self.stored_header.values

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return text(self.values, "SOPInstanceUID")

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""
        return text(self.values, "SOPClassUID")

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D)."""
        return text(self.values, "StudyInstanceUID")

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID (0020,000E)."""
        return text(self.values, "SeriesInstanceUID")

    def load(self) -> Dataset:
        """The whole data set with pixel data."""
        return read_part10(self.path, pixels=True)


@dataclass(frozen=True, eq=False)
class Series:
    """The instances of one series, at least one, in the order of their SOP Instance UIDs."""

    instances: tuple[Instance, ...]

    def __post_init__(self) -> None:
        if not self.instances:
            raise ValueError("a series has at least one instance")
        if len({instance.series_instance_uid for instance in self.instances}) != 1:
            raise ValueError("instances of different series")

    @property
    def header(self) -> Dataset:
        """Header of the first instance: what holds for the whole series."""
        return self.instances[0].header

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D)."""
        return self.instances[0].study_instance_uid

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID (0020,000E)."""
        return self.instances[0].series_instance_uid

    @property
    def modality(self) -> str:
        """Modality (0008,0060), empty when absent."""
        return text(self.header, "Modality")

    @property
    def description(self) -> str:
        """Series Description (0008,103E), empty when absent. May hold free text: never log it."""
        return text(self.header, "SeriesDescription")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digests of all instances: names exactly this input."""
        contents = sorted(instance.sha256 for instance in self.instances)
        return hashlib.sha256("\n".join(contents).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Study:
    """The series of one study, in the order of their SeriesNumber."""

    series: tuple[Series, ...]

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D)."""
        return self.series[0].study_instance_uid


@dataclass(frozen=True)
class SourceFrame:
    """The image behind one slice of a volume. `frame_number` is set for multi-frame instances."""

    instance: Instance
    frame_number: int | None = None


@dataclass(frozen=True, eq=False)
class SourceVolume:
    """A volume together with the frame behind each of its slices, in the volume's slice order."""

    series: Series
    volume: Volume
    frames: tuple[SourceFrame, ...]
    notes: tuple[str, ...] = ()
    """Plain sentences for the reports, such as that some images were left out."""

    def __post_init__(self) -> None:
        if len(self.frames) != self.volume.shape[0]:
            raise ValueError(f"{self.volume.shape[0]} slices but {len(self.frames)} frames")


def text(header: Dataset | HeaderIndex, keyword: str) -> str:
    """A header value as stripped text, multiple values joined by a backslash.

    Empty when absent or empty, or when its bytes are no value of its type.
    """
    try:
        word = _plain_word(header, keyword)
        value: Any = header.get(keyword) if word is None else word
    except Exception:  # pydicom converts on access, and anything may be in a file
        return ""
    if value is None:
        return ""
    if isinstance(value, (str, PersonName)) or not isinstance(value, Iterable):
        return str(value).strip()
    return "\\".join(str(item).strip() for item in value)


def _plain_word(header: Dataset | HeaderIndex, keyword: str) -> str | None:
    """A single word that pydicom has read and not decoded: it would make an element of it first."""
    if isinstance(header, HeaderIndex):
        return None
    raw = header.get_item(tag_and_vr(keyword)[0])
    if isinstance(raw, RawDataElement) and raw.value and raw.VR in TEXT_VRS:
        return plain_text(raw.value)
    return None


def items(dataset: Dataset | HeaderIndex, keyword: str) -> Iterable[Dataset]:
    """Items of a sequence that tells of the object, such as its equipment.

    None where it is absent, broken, or far larger than such sequences are: looking at it parses it.
    """
    try:
        raw = dataset.get_item(keyword)
        if raw is None or (isinstance(raw, RawDataElement) and raw.length > LARGEST_TELLING_SEQUENCE_BYTES):
            return ()
        value = dataset[keyword].value
    except Exception:  # pydicom converts on access, and anything may be in a file
        return ()
    return value if isinstance(value, Sequence) else ()


def read_instance(path: Path, sha256: str | None = None) -> Instance:
    """Read the header of one file. The digest is of the whole file when none is given.

    Raises pydicom's InvalidDicomError when the file is not DICOM, is broken or lacks the identifying
    UIDs, and OSError when the disk fails.
    """
    header = read_header(path)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid = text(header.values, keyword)
        if not uid or "\\" in uid:
            raise InvalidDicomError(f"the file has no single {keyword}")
    return Instance(path, header, sha256 or hashlib.sha256(path.read_bytes()).hexdigest())


def group_studies(instances: Iterable[Instance]) -> tuple[Study, ...]:
    """Sort instances into studies and series. Of several copies of an instance the last one counts."""
    by_uid = {instance.sop_instance_uid: instance for instance in instances}
    studies: dict[str, dict[str, list[Instance]]] = defaultdict(lambda: defaultdict(list))
    for _, instance in sorted(by_uid.items()):
        studies[instance.study_instance_uid][instance.series_instance_uid].append(instance)
    return tuple(
        Study(tuple(sorted((Series(tuple(found)) for found in series.values()), key=_series_order)))
        for series in studies.values()
    )


def series_number(series: Series) -> int:
    """SeriesNumber (0020,0011), or 0 when it is absent or no number."""
    number = text(series.header, "SeriesNumber")
    return int(number) if number.removeprefix("-").isdecimal() else 0


def _series_order(series: Series) -> tuple[int, str]:
    return series_number(series), series.series_instance_uid
