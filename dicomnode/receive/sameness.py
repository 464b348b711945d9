"""Whether two files hold the same instance: compared by what they say, not by how it is encoded.

An archive may send an image that it sent before in another transfer syntax. Every byte differs, and nothing
has changed. What is compared: every attribute but those that the encoding decides, and every decoded sample.

Run as a program (see judge.py), this answers one line for each line asked.
"""

from __future__ import annotations

import json
import resource
import sys
from itertools import zip_longest
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.utils import iter_pixels

MAXIMUM_MEMORY_BYTES = 4_000_000_000
DECIDED_BY_THE_ENCODING = ("PhotometricInterpretation", "PlanarConfiguration", "DataSetTrailingPadding")
PIXEL_DATA_GROUP = 0x7FE0


def same_instance(one: Path, other: Path) -> bool:
    """Compare two DICOM files. Raises whatever the parser or a decoder makes of broken bytes."""
    first, second = dcmread(one), dcmread(other)
    has_pixels = "PixelData" in first
    if has_pixels != ("PixelData" in second) or _attributes(first) != _attributes(second):
        return False
    return not has_pixels or _same_samples(one, other)


def _attributes(dataset: Dataset) -> bytes:
    """All attributes that the encoding does not decide, in the one encoding that names no VRs."""
    for keyword in DECIDED_BY_THE_ENCODING:
        if keyword in dataset:
            delattr(dataset, keyword)
    for tag in [tag for tag in dataset.keys() if tag.group == PIXEL_DATA_GROUP]:  # noqa: SIM118
        del dataset[tag]
    _settle(dataset)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _settle(dataset: Dataset) -> None:
    """Leave one way to write each element: one byte order (by reading it), defined lengths, least padding."""
    for element in dataset:
        element.is_undefined_length = False
        if element.VR == "UN" and isinstance(element.value, bytes):
            plain = element.value.rstrip(b" ")
            element.value = plain + b" " * (len(plain) % 2)
        if element.VR == "SQ":
            for item in element.value:
                item.is_undefined_length_sequence_item = False
                _settle(item)


def _same_samples(one: Path, other: Path) -> bool:
    """Frame by frame, in RGB where there is colour. Read again: deflated files cannot be iterated."""
    return all(
        frame is not None and twin is not None and np.array_equal(frame, twin)
        for frame, twin in zip_longest(iter_pixels(dcmread(one)), iter_pixels(dcmread(other)))
    )


def _serve() -> None:
    """Answer until the asking process is gone."""
    resource.setrlimit(resource.RLIMIT_AS, (MAXIMUM_MEMORY_BYTES, MAXIMUM_MEMORY_BYTES))
    for line in sys.stdin:
        one, other = json.loads(line)
        try:
            answer = "same" if same_instance(Path(one), Path(other)) else "different"
        except Exception as error:  # pydicom and its decoders raise anything on broken bytes
            answer = f"unknown {type(error).__name__}"
        print(answer, flush=True)


if __name__ == "__main__":
    _serve()
