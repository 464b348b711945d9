"""The index of a header says what pydicom says of the same bytes, or nothing: real, changed, hostile ones."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.elements import find_elements, find_file_meta
from dicomnode.encode.recognise import is_own_result
from dicomnode.errors import PermanentError
from dicomnode.header_index import HeaderIndex, index_header
from dicomnode.part10 import index_part10, parse_part10
from dicomnode.receive import arrival
from dicomnode.receive.arrival import Identity, identify
from dicomnode.study import text
from dicomnode.urgency import urgency
from tests.dicomnode import parts
from tests.fuzz.mutate import mutate

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
CHANGED_BYTES = 4096
"""Of a header: most have fewer."""
TEXTS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "SeriesDescription",
    "ImageType",
    "InstanceNumber",
    "Rows",
)

pytestmark = pytest.mark.filterwarnings("ignore")  # broken headers make pydicom talk


def by_pydicom(content: bytes) -> FileDataset | None:
    """What pydicom makes of the bytes of a file within the limits; None where it refuses them."""
    try:
        return parse_part10(BytesIO(content), len(content), pixels=False)
    except MemoryError:
        raise
    except Exception:  # pydicom raises many kinds for broken bytes
        return None


def assert_same_elements(ours: Dataset, theirs: Dataset) -> None:
    """The same bytes, and the same items where pydicom has parsed a sequence of undefined length at once."""
    assert list(ours.keys()) == list(theirs.keys())
    for tag in list(theirs.keys()):
        found, expected = ours.get_item(tag), theirs.get_item(tag)
        assert found is not None
        assert expected is not None
        if isinstance(expected, RawDataElement) and isinstance(found, RawDataElement):
            assert found._replace(value_tell=0) == expected._replace(value_tell=0)
            continue
        found, expected = ours[tag], theirs[tag]
        assert found.VR == expected.VR
        if expected.VR == "SQ":
            for item, other in zip(found.value, expected.value, strict=True):
                assert_same_elements(item, other)
        else:
            assert found.value == expected.value


def assert_same(found: FileDataset, expected: FileDataset | None) -> None:
    assert expected is not None, "the index reads what pydicom refuses"
    assert found.preamble == expected.preamble
    assert found.original_encoding == expected.original_encoding
    assert found.original_character_set == expected.original_character_set
    assert_same_elements(found.file_meta, expected.file_meta)
    assert_same_elements(found, expected)


def assert_same_words(content: bytes, expected: FileDataset) -> None:
    """The index itself, as the receiver asks it."""
    meta = find_file_meta(content)
    assert meta is not None
    index = index_header(content, str(expected.file_meta.TransferSyntaxUID), meta.end)
    assert index is not None
    assert [text(index, keyword) for keyword in TEXTS] == [text(expected, keyword) for keyword in TEXTS]
    assert urgency(index) == urgency(expected)
    assert is_own_result(index) == is_own_result(expected)


def check(content: bytes) -> bool:
    """Whether the index was sure; fails where it differs from pydicom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = index_part10(content)
        if found is None:
            return False
        expected = by_pydicom(content)
        assert_same(found.dataset, expected)
        assert expected is not None
        assert_same_words(content, expected)
        return True


def as_file(dataset: FileDataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def rich_image(syntax: str = ExplicitVRLittleEndian, *, undefined: bool = False) -> FileDataset:
    """An image with nested sequences, private elements, several values and an urgent request."""
    dataset = parts.image(
        SOPInstanceUID="1.2.826.0.1.3680043.8.498.1234567890123456789012345678901234567",
        AccessionNumber="ACC 7 ",
        ImageType=["ORIGINAL", "PRIMARY"],
        Manufacturer="Maker",
    )  # of the same length in every process: tests are named by places in its file
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "M\u00fcller^J\u00f6rg"
    code, request, reference = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "One"
    request.RequestedProcedurePriority = "STAT"
    request.RequestedProcedureCodeSequence = [code]
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.RequestAttributesSequence = [request, Dataset()]
    dataset.ReferencedImageSequence = [reference, reference]
    dataset.SourceImageSequence = []
    dataset.private_block(0x0029, "MAKER", create=True).add_new(0x10, "OB", b"\x01\x02\x03\x04")
    if undefined:
        for keyword in ("RequestAttributesSequence", "ReferencedImageSequence", "SourceImageSequence"):
            dataset[keyword].is_undefined_length = True
        dataset.RequestAttributesSequence[0]["RequestedProcedureCodeSequence"].is_undefined_length = True
        for item in dataset.RequestAttributesSequence:
            item.is_undefined_length_sequence_item = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.set_original_encoding(None, None)
    return dataset


BASES = [
    as_file(rich_image(syntax, undefined=undefined))
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    for undefined in (False, True)
]


@pytest.mark.parametrize("content", BASES)
def test_ordinary_files_are_indexed(content: bytes) -> None:
    assert check(content)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_are_left_to_pydicom(syntax: str) -> None:
    dataset = rich_image()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    buffer = BytesIO()
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=little, enforce_file_format=True)
    assert index_part10(buffer.getvalue()) is None
    assert by_pydicom(buffer.getvalue()) is not None


def test_letters_beyond_ascii_are_read_in_their_character_set() -> None:
    dataset = rich_image()
    dataset.PatientID = "\u00c4-7"
    assert check(as_file(dataset))
    index = index_of(as_file(dataset))
    assert text(index, "PatientID") == "\u00c4-7"


def test_character_sets_with_escapes_are_left_to_pydicom() -> None:
    dataset = rich_image()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"
    assert index_part10(as_file(dataset)) is None


def test_a_beginning_is_enough_where_the_header_lies_in_it(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    dataset = rich_image()
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = bytes(2 * 512 * 512)
    path.write_bytes(as_file(dataset))
    found = index_part10(path)
    assert found is not None
    assert_same(found.dataset, by_pydicom(path.read_bytes()))


@pytest.mark.parametrize("end", range(132, len(BASES[1]), 7))
def test_a_cut_beginning_is_never_taken_for_the_whole_header(end: int) -> None:
    content = BASES[1]
    meta = find_file_meta(content)
    assert meta is not None
    if end > meta.end:
        whole = find_elements(content, meta.end, explicit=True)
        cut = find_elements(content[:end], meta.end, explicit=True, whole=False)
        assert cut in (None, whole)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), base=st.sampled_from(BASES))
def test_changed_files_are_read_as_pydicom_reads_them_or_not_at_all(seed: int, base: bytes) -> None:
    check(mutate(base, random.Random(seed)))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    base=st.sampled_from(BASES),
    changes=st.lists(st.tuples(st.integers(132, 1500), st.integers(0, 255)), max_size=3),
    swap=st.tuples(st.integers(132, 1500), st.integers(132, 1500), st.integers(1, 40)),
)
def test_changed_and_swapped_bytes_change_nothing_unseen(
    base: bytes, changes: list[tuple[int, int]], swap: tuple[int, int, int]
) -> None:
    content = bytearray(base)
    one, other, length = swap
    content[one : one + length], content[other : other + length] = (
        content[other : other + length],
        content[one : one + length],
    )
    for place, byte in changes:
        content[place % len(content)] = byte
    check(bytes(content))


def test_most_changes_are_still_read_by_the_index() -> None:
    """Otherwise the tests above would compare nothing."""
    sure = [check(mutate(BASES[seed % 4], random.Random(seed))) for seed in range(200)]
    assert 20 < sum(sure) < 180


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), base=st.sampled_from(range(4)))
def test_what_arrives_is_identified_the_same_with_and_without_the_index(seed: int, base: int) -> None:
    dataset = rich_image(
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian)[base % 2], undefined=bool(base // 2)
    )
    came = parts.arrival(dataset)
    changed = replace(came, encoded=memoryview(mutate(bytes(came.encoded), random.Random(seed))))
    assert outcome(changed) == outcome(changed, index=lambda *_, **__: None)


def outcome(came: arrival.Arrival, index: Callable[..., Any] = index_header) -> Identity | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrival, "index_header", index)
        try:
            return identify(came)
        except PermanentError as error:
            return str(error)


@pytest.mark.parametrize("byte_count", [2**20, 64 * 2**20])
def test_endless_empty_items_cost_little(byte_count: int) -> None:
    start = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff"
    items = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * (byte_count // 8)
    began = time.process_time()
    assert find_elements(start + items, 0, explicit=True) is None
    assert time.process_time() - began < 10.0


def test_deep_nesting_is_left_to_pydicom() -> None:
    opened = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00" + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    assert find_elements(opened * 3 + closed * 3, 0, explicit=True) is not None
    assert find_elements(opened * 500 + closed * 500, 0, explicit=True) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_files_are_indexed_and_the_same() -> None:
    sure = [check(path.read_bytes()) for path in sorted(SHARED.rglob("*.dcm"))]
    assert sum(sure) > 0.95 * len(sure)


def test_the_files_that_pydicom_is_tested_with_are_the_same() -> None:
    small = [path for path in sorted(BUNDLED.rglob("*")) if path.is_file() and path.stat().st_size < 2**20]
    sure = [check(path.read_bytes()) for path in small]
    assert sum(sure) > 20


def test_changed_headers_of_real_files_are_read_as_pydicom_reads_them_or_not_at_all() -> None:
    """Headers of scanners have what ours lack: private elements, deep sequences, several character sets."""
    real = [path for path in (*BUNDLED.rglob("*.dcm"), *SHARED.rglob("*.dcm")) if path.stat().st_size < 2**20]
    sure = []
    for seed, path in enumerate(sorted(real)):
        content = path.read_bytes()
        changed = mutate(content[:CHANGED_BYTES], random.Random(seed))
        sure.append(check(changed + content[CHANGED_BYTES:]))
    assert 0.1 * len(sure) < sum(sure) < 0.95 * len(sure)


def index_of(content: bytes) -> HeaderIndex:
    meta = find_file_meta(content)
    assert meta is not None
    index = index_header(content, ExplicitVRLittleEndian, meta.end)
    assert index is not None
    return index


def test_a_file_that_is_none_is_refused_as_before(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("no image")
    assert index_part10(path) is None
    with pytest.raises(InvalidDicomError):
        parse_part10(BytesIO(b"no image"), 8, pixels=False)
