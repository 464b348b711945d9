"""Files that claim more than they hold: refused in little memory and time, and for the right reason.

Each case runs in a process of its own that may not have more than two gigabytes of address space.
"""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import pytest
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomnode.part10 import read_part10
from tests.dicomnode.parts import image

ADDRESS_SPACE_BYTES = 2 * 2**30
PATIENCE_S = 120.0


def part10(**attributes: object) -> bytes:
    """A good small image, as a file."""
    buffer = BytesIO()
    image(**attributes).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def element(group: int, number: int, vr: bytes, value: bytes, claimed: int | None = None) -> bytes:
    """An explicit little endian element with a long length, which may lie."""
    length = len(value) if claimed is None else claimed
    return struct.pack("<HH2sHI", group, number, vr, 0, length) + value


def deflated(content: bytes) -> bytes:
    """A file whose deflated data set inflates to `content`."""
    dataset = image()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    meta_length = struct.unpack_from("<I", whole, 140)[0]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return whole[: 144 + meta_length] + packer.compress(content) + packer.flush()


def claim_of_a_gigabyte() -> bytes:
    return part10() + element(0x0009, 0x1010, b"OB", b"small", 2**30)


def claim_of_four_gigabytes_of_pixels() -> bytes:
    whole = part10()
    return whole[:-36] + struct.pack("<I", 0xFFFFFFF0) + bytes(32)


def deflate_bomb() -> bytes:
    return deflated(element(0x0009, 0x1010, b"OB", bytes(2**28)) * 3)


def deflated_and_cut_off() -> bytes:
    return deflated(part10()[300:])[:-8]


def two_million_elements() -> bytes:
    return deflated(element(0x0009, 0x1010, b"OB", b"") * 2_000_000)


def sequences_ten_thousand_deep() -> bytes:
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return part10() + (opened + item) * 10_000


def sequence_without_an_end() -> bytes:
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 40)
    return part10() + opened + item + bytes(10)


def kind_of_error(content: bytes, pixels: bool) -> str:
    """What becomes of reading `content` with little memory."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    try:
        read_part10(content, pixels=pixels)
    except (InvalidDicomError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return "read"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (claim_of_a_gigabyte, "claims 1073741824 bytes where"),
        (claim_of_four_gigabytes_of_pixels, "claims 4294967280 bytes where"),
        (deflate_bomb, "inflates to more than"),
        (deflated_and_cut_off, "the deflated data set is cut off"),
        (two_million_elements, "more than about 500000 elements"),
        (sequences_ten_thousand_deep, "RecursionError"),
        (sequence_without_an_end, "cannot be parsed"),
    ],
)
def test_a_file_that_claims_too_much_is_refused_in_little_memory(
    make: Callable[[], bytes], reason: str
) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        told = alone.submit(kind_of_error, make(), True).result(PATIENCE_S)
    assert told.startswith("InvalidDicomError")
    assert reason in told


def test_the_header_of_a_large_deflated_object_needs_no_inflating_of_its_pixels() -> None:
    dataset = part10()
    start = 144 + struct.unpack_from("<I", dataset, 140)[0]
    large = deflated(dataset[start:-44] + element(0x7FE0, 0x0010, b"OW", bytes(2**28)))
    assert read_part10(large, pixels=False).SOPInstanceUID
    assert "PixelData" not in read_part10(large, pixels=False)


@pytest.mark.parametrize("make", [part10, lambda: deflated(part10()[144 + 200 :])])
def test_every_cut_of_a_file_is_refused_or_read_as_far_as_it_goes(make: Callable[[], bytes]) -> None:
    whole = make()
    for length in range(0, len(whole), 7):
        try:
            found = read_part10(whole[:length], pixels=True)
        except InvalidDicomError:
            continue
        assert len(found.get("PixelData", b"")) in (0, 32)


def test_a_good_file_is_read_as_pydicom_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "good.dcm"
    path.write_bytes(part10(SOPInstanceUID="1.2.9"))
    assert read_part10(path, pixels=True).PixelData == bytes(32)
    assert read_part10(path, pixels=False).SOPInstanceUID == "1.2.9"
