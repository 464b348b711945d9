"""Headers: the values that filing and geometry need, from files and from received bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.header_index import index_header
from dicomnode.part10 import ParsedHeader, parse_part10
from dicomnode.read.frames import FrameHeader
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.study import Instance, SourceFrame, read_instance, text
from inference.volume import Volume
from tests.bench.harness import AtLeast, Case, Setting, Stage, simply
from tests.bench.needs import module

WORDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality")
NUMBERS = {
    "Rows": 1,
    "Columns": 1,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
    "BitsStored": 1,
}
"""How many numbers each has."""
TAGS = {
    "SOPInstanceUID": (0x0008, 0x0018),
    "StudyInstanceUID": (0x0020, 0x000D),
    "SeriesInstanceUID": (0x0020, 0x000E),
    "FrameOfReferenceUID": (0x0020, 0x0052),
    "Modality": (0x0008, 0x0060),
    "Rows": (0x0028, 0x0010),
    "Columns": (0x0028, 0x0011),
    "ImagePositionPatient": (0x0020, 0x0032),
    "ImageOrientationPatient": (0x0020, 0x0037),
    "PixelSpacing": (0x0028, 0x0030),
    "RescaleSlope": (0x0028, 0x1053),
    "RescaleIntercept": (0x0028, 0x1052),
    "BitsStored": (0x0028, 0x0101),
}
Facts = tuple[tuple[str, ...], tuple[float, ...]]


def of_instance(instance: Instance) -> Facts:
    """As the node asks for them."""
    header = FrameHeader(SourceFrame(instance), (instance.values,))
    numbers = (header.numbers(keyword, count) or () for keyword, count in NUMBERS.items())
    return tuple(text(instance.values, keyword) for keyword in WORDS), tuple(chain.from_iterable(numbers))


def node(path: Path) -> Facts:
    """What reading and routing do."""
    return of_instance(read_instance(path, sha256="0" * 64))


def node_without_index(path: Path) -> Facts:
    """The same by pydicom within the node's limits, as before there was an index."""
    with path.open("rb") as file:
        header = parse_part10(file, path.stat().st_size, pixels=False)
    return of_instance(Instance(path, ParsedHeader(header), "0" * 64))


def by_pydicom(path: Path | BytesIO) -> Facts:
    """dcmread(stop_before_pixels=True) and attribute access."""
    header = dcmread(path, stop_before_pixels=True)
    numbers: list[float] = []
    for keyword in NUMBERS:
        value = getattr(header, keyword)
        numbers.extend(map(float, value if hasattr(value, "__iter__") else [value]))
    return tuple(str(getattr(header, keyword)) for keyword in WORDS), tuple(numbers)


def by_gdcm(paths: Sequence[Path]) -> list[Facts]:
    """gdcm.Scanner, which reads only the tags that it is asked for."""
    import gdcm  # only the benchmark has it

    scanner, tags = gdcm.Scanner(), {keyword: gdcm.Tag(*tag) for keyword, tag in TAGS.items()}
    for tag in tags.values():
        scanner.AddTag(tag)
    scanner.Scan([str(path) for path in paths])
    found = []
    for path in paths:
        words = tuple(scanner.GetValue(str(path), tags[keyword]).strip("\0 ") for keyword in WORDS)
        values = (scanner.GetValue(str(path), tags[keyword]) for keyword in NUMBERS)
        found.append((words, tuple(float(part) for value in values for part in value.split("\\"))))
    return found


def each(read: Callable[[Path], Facts], paths: Sequence[Path]) -> Callable[[], list[Facts]]:
    return lambda: [read(path) for path in paths]


def cases(setting: Setting) -> Iterator[Case]:
    count = setting.choose(4, 100, 500)
    values = np.zeros((count, 512, 512), np.int16)
    paths = write_series(
        Volume(values, np.diag([1.0, 0.7, 0.7, 1.0]), "HU"), setting.folder, SeriesIdentity()
    )
    ways = {
        "node": each(node, paths),
        "node without the index": each(node_without_index, paths),
        "pydicom, stop_before_pixels": each(by_pydicom, paths),
    }
    gdcm_way, gdcm_need = (lambda: by_gdcm(paths)), module("gdcm")
    expected = ways["pydicom, stop_before_pixels"]()
    for name, way in (ways | ({"gdcm.Scanner": gdcm_way} if gdcm_need.present else {})).items():
        if way() != expected:
            raise ValueError(f"{name} reads other values than pydicom")
    contenders = tuple(simply(name, way) for name, way in ways.items())
    contenders += (simply("gdcm.Scanner", gdcm_way, [gdcm_need]),)
    goals = (AtLeast("node", 3.0, "pydicom, stop_before_pixels"), AtLeast("node", 1.0, "gdcm.Scanner"))
    yield Case("files of a CT", contenders, "pydicom, stop_before_pixels", goals, count, "files")
    yield from _received(paths)


def _received(paths: Sequence[Path]) -> Iterator[Case]:
    """The words alone, from the bytes of a C-STORE request, as the receiver needs them."""
    received = [path.read_bytes()[:16384] for path in paths]
    starts = [132 + 12 + int.from_bytes(content[140:144], "little") for content in received]
    pairs = list(zip(received, starts, strict=True))

    def indexed() -> list[list[str]]:
        found = []
        for content, start in pairs:
            index = index_header(content, ExplicitVRLittleEndian, start, whole=False)
            if index is None:
                raise ValueError("the index is unsure of an ordinary file")
            found.append([text(index, keyword) for keyword in WORDS])
        return found

    def parsed() -> list[list[str]]:
        headers = (dcmread(BytesIO(content), stop_before_pixels=True) for content in received)
        return [[text(header, keyword) for keyword in WORDS] for header in headers]

    if indexed() != parsed():
        raise ValueError("the index reads other words than pydicom")
    contenders = simply("node", indexed), simply("pydicom", parsed)
    goals = (AtLeast("node", 4.0, "pydicom"),)
    yield Case("received bytes", contenders, "pydicom", goals, len(paths), "headers")


STAGE = Stage(
    "headers",
    "Headers",
    "Thirteen values of every file of a CT: identity, geometry, rescale. `node` is what reading and "
    "routing do, with an index of the first bytes of a file and pydicom only where that is unsure. All "
    "ways are checked to give the same values before they are timed. Received bytes are indexed in "
    "memory, for five of the values.",
    cases,
)
