"""Reads DICOM files (PS3.10) that may have been made to harm: what they claim is bounded by what they are.

pydicom 3.0 believes a length in a file and asks for that much memory, inflates a deflated data set whatever
its size, takes any number of elements, and gives back what it has when a data set is cut off. Everything
that others sent is read through here.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread, read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

MOST_READS = 1_500_000
"""About half a million elements: five times those of an enhanced object of a thousand frames."""
LARGEST_INFLATED_BYTES = 2**29
LARGEST_INFLATED_HEADER_BYTES = 2**26
ELEMENT_HEADER_BYTES = 12
SEARCHED_AHEAD_BYTES = 8192
"""pydicom looks for delimiters in pieces of this size, beyond the end of the file too."""
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


def read_part10(source: Path | bytes, *, pixels: bool) -> FileDataset:
    """The data set of a file or of the bytes of one, with its pixels or only what comes before them.

    Raises InvalidDicomError for whatever the content is guilty of, OSError when the disk fails, and
    MemoryError when the machine has too little for a content that is within the limits.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return _read(file, source.stat().st_size, pixels)
        return _read(BytesIO(source), len(source), pixels)
    except (InvalidDicomError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds for broken bytes, OSError without errno too
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidDicomError(f"the data set cannot be parsed ({type(error).__name__})") from error


def _read(file: BinaryIO, size_bytes: int, pixels: bool) -> FileDataset:
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
