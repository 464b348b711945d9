"""Reads DICOM files (PS3.10) that may have been made to harm: what they claim is bounded by what they are.

pydicom 3.0 believes a length in a file and asks for that much memory, inflates a deflated data set whatever
its size, takes any number of elements, and gives back what it has when a data set is cut off. Everything
that others sent is read through here.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from pydicom.charset import default_encoding
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread, read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from dicomnode.elements import Found, PixelPlace, find_file_meta
from dicomnode.header_index import HeaderIndex, index_header
from dicomnode.layouts import KnownLayouts, end_of_pixel_header, values_of

MOST_READS = 1_500_000
"""About half a million elements: five times those of an enhanced object of a thousand frames."""
LARGEST_INFLATED_BYTES = 2**29
LARGEST_INFLATED_HEADER_BYTES = 2**26
ELEMENT_HEADER_BYTES = 12
USUAL_HEADER_BYTES = 2**14
LARGE_HEADER_BYTES = 2**20
"""With the private elements of vendors, or the functional groups of many frames."""
NATIVE_LITTLE_ENDIAN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
SEARCHED_AHEAD_BYTES = 8192
"""pydicom looks for delimiters in pieces of this size, beyond the end of the file too."""
PREFIX_START = 128
"""Behind the preamble (section 7.1)."""
GROUP_LENGTH, MEDIA_STORAGE_SOP_CLASS_UID, TRANSFER_SYNTAX_UID = 0x00020000, 0x00020002, 0x00020010
DECIDING = (GROUP_LENGTH, MEDIA_STORAGE_SOP_CLASS_UID, TRANSFER_SYNTAX_UID)
"""Values of the file meta information that decide how the data set is read."""
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)


class BoundedReader:
    """A file of known size that answers no claim beyond its end, and not without end."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._reads = 0
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, count: int = -1) -> bytes:
        """As of a file. Raises InvalidDicomError for what cannot be there, and for far too many reads."""
        self._reads += 1
        if self._reads > MOST_READS:
            raise InvalidDicomError(f"more than about {MOST_READS // 3} elements")
        left = max(0, self._size_bytes - self._file.tell())
        if count > left and count > ELEMENT_HEADER_BYTES and count != SEARCHED_AHEAD_BYTES:
            raise InvalidDicomError(f"an element claims {count} bytes where {left} are left: it is cut off")
        return self._file.read(left if count < 0 else min(count, left))


@dataclass(frozen=True, eq=False)
class ParsedHeader:
    """A data set without its pixel data, as pydicom parsed it."""

    dataset: FileDataset
    pixels: None = None

    @property
    def values(self) -> FileDataset:
        """For single values."""
        return self.dataset


@dataclass(frozen=True, eq=False)
class IndexedHeader:
    """A data set without its pixel data that becomes pydicom's when somebody asks for more than values."""

    preamble: bytes
    meta: HeaderIndex
    values: HeaderIndex
    """For single values."""
    pixels: PixelPlace | None
    """Where native pixel data lie in the file."""

    @cached_property
    def dataset(self) -> FileDataset:
        """The same as pydicom's parser makes of it."""
        file_meta = FileMetaDataset(self.meta.dataset)
        file_meta.set_original_encoding(False, True, default_encoding)
        found, implicit = self.values.dataset, not self.values.explicit
        dataset = FileDataset("", found, self.preamble, file_meta, implicit, True)
        dataset.set_original_encoding(implicit, True, found.original_character_set)
        return dataset


Header = ParsedHeader | IndexedHeader


def read_part10(source: Path | bytes, *, pixels: bool) -> FileDataset:
    """The data set of a file or of the bytes of one, with its pixels or only what comes before them.

    Raises InvalidDicomError for whatever the content is guilty of, OSError when the disk fails, and
    MemoryError when the machine has too little for a content that is within the limits.
    """
    with _one_kind_of_error():
        return _parsed(source, pixels=True) if pixels else _header(source).dataset


def read_header(path: Path) -> Header:
    """What comes before the pixel data of a file. Raises as `read_part10`."""
    with _one_kind_of_error():
        return _header(path)


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    try:
        yield
    except (InvalidDicomError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds for broken bytes, OSError without errno too
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidDicomError(f"the data set cannot be parsed ({type(error).__name__})") from error


def _header(source: Path | bytes) -> Header:
    return index_part10(source) or ParsedHeader(_parsed(source, pixels=False))


def _parsed(source: Path | bytes, *, pixels: bool) -> FileDataset:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return parse_part10(file, source.stat().st_size, pixels=pixels)
    return parse_part10(BytesIO(source), len(source), pixels=pixels)


def index_part10(source: Path | bytes) -> IndexedHeader | None:
    """The header by way of an index of its first bytes; None where pydicom must parse it."""
    if isinstance(source, bytes):
        return _header_of(source, whole=True)
    file = os.open(source, os.O_RDONLY)
    try:
        size_bytes = os.fstat(file).st_size
        for most_bytes in (USUAL_HEADER_BYTES, LARGE_HEADER_BYTES):
            content = os.pread(file, most_bytes, 0)
            header = _header_of(content, whole=len(content) == size_bytes)
            if header is not None or len(content) < most_bytes:
                return header
        return None
    finally:
        os.close(file)


class FileParts(NamedTuple):
    """Where in a file lies what."""

    meta: Found
    values: Found
    explicit: bool
    """Whether the data set names its VRs."""
    pixels: PixelPlace | None


_known_files = KnownLayouts[FileParts]()


def _header_of(content: bytes, whole: bool) -> IndexedHeader | None:
    parts = _known_files.find(content, PREFIX_START) or _walk(content, whole)
    if parts is None:
        return None
    kept = content[: parts.values.end]
    meta, values = HeaderIndex(kept, parts.meta, True), HeaderIndex(kept, parts.values, parts.explicit)
    return IndexedHeader(kept[:PREFIX_START], meta, values, parts.pixels)


def _walk(content: bytes, whole: bool) -> FileParts | None:
    """The parts of a file, found from element to element; None where pydicom must parse it."""
    meta = find_file_meta(content)
    if meta is None:
        return None
    said = HeaderIndex(content, meta, explicit=True)
    syntax, sop_class = said.get("TransferSyntaxUID"), said.get("MediaStorageSOPClassUID")
    if not isinstance(syntax, str) or not syntax or sop_class == MediaStorageDirectoryStorage:
        return None
    header = index_header(content, syntax, meta.end, whole=whole)
    if header is None:
        return None
    pixels = header.pixels if syntax in NATIVE_LITTLE_ENDIAN else None
    parts = FileParts(meta, header.found, header.explicit, pixels)
    if GROUP_LENGTH in meta.elements:  # else the walk took another value for it
        values = [element for tag, element in meta.elements.items() if tag not in DECIDING]
        end = end_of_pixel_header(header.found, explicit=header.explicit)
        _known_files.keep(content, PREFIX_START, end, [*values, *values_of(header.found)], parts)
    return parts


def parse_part10(file: BinaryIO, size_bytes: int, *, pixels: bool) -> FileDataset:
    """The data set by pydicom, element for element. Raises whatever pydicom raises."""
    content = cast(BinaryIO, BoundedReader(file, size_bytes))
    preamble = read_preamble(content, force=False)
    meta = FileMetaDataset(read_dataset(content, False, True, stop_when=_after_file_meta))
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflated = _inflate(content.read(), pixels)
        within = cast(BinaryIO, BoundedReader(BytesIO(inflated), len(inflated)))
        dataset = read_dataset(within, False, True, stop_when=None if pixels else _at_pixels)
        return FileDataset("", dataset, preamble, meta, False, True)
    content.seek(0)
    return dcmread(content, stop_before_pixels=not pixels)


def _inflate(deflated: bytes, pixels: bool) -> bytes:
    """The data set behind a deflated one (PS3.5 section A.5); without pixels no more than a header needs."""
    limit_bytes = LARGEST_INFLATED_BYTES if pixels else LARGEST_INFLATED_HEADER_BYTES
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflating.decompress(deflated, limit_bytes)
    if inflating.eof or (inflating.unconsumed_tail and not pixels):
        return inflated
    if inflating.unconsumed_tail:
        raise InvalidDicomError(f"the data set inflates to more than {limit_bytes} bytes")
    raise InvalidDicomError("the deflated data set is cut off")


def _after_file_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in PIXEL_TAGS
