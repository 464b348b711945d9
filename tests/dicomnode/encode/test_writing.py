"""Objects as bytes: the quick way gives what pydicom alone gives."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage
from pydicom.valuerep import DT

from dicomnode.encode.items import ItemWriter, Unusual
from dicomnode.encode.results import encode_results
from dicomnode.encode.writing import to_bytes
from dicomnode.forms import KINDS
from tests.dicomnode.encode.situations import situation

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=9)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "CodeValue": TEXT,
        "CodeMeaning": st.one_of(st.none(), TEXT),
        "TextValue": TEXT,
        "LongCodeValue": TEXT,
        "ReferencedSOPInstanceUID": st.sampled_from(["1.2.3", "1.2.34", ""]),
        "ImageType": st.lists(st.sampled_from(["A", "BC", ""]), min_size=2, max_size=3),
        "ImagePositionPatient": st.lists(st.sampled_from(["1.50", "-2e3", 0.25, 3]), min_size=3, max_size=3),
        "ReferencedFrameNumber": st.one_of(st.integers(1, 99), st.lists(st.integers(1, 99), max_size=3)),
        "ReferencedSegmentNumber": st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3)),
        "GraphicData": st.lists(st.floats(0, 512, width=32), max_size=6),
        "FloatingPointValue": st.floats(allow_nan=False),
        "DimensionIndexValues": st.lists(st.integers(0, 2**32 - 1), max_size=4),
        "RecommendedDisplayCIELabValue": st.lists(st.integers(0, 65535), max_size=3),
        "DateTime": st.sampled_from(["20260101", DT(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)), None]),
        "Date": st.sampled_from(["20260101", ""]),
        "PersonName": st.sampled_from(["A^B", ""]),
        "FrameIncrementPointer": st.sampled_from([0x00181063, None]),
        "EncapsulatedDocument": st.binary(max_size=5),
    },
)


def item(values: dict[str, object]) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def with_items(*items: Dataset) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    made.SOPInstanceUID = "1.2.3"
    made.SpecificCharacterSet = "ISO_IR 100"
    made.PatientName = "M\u00fcller^J\u00f6rg"
    made.PixelRepresentation = 1
    made.SmallestImagePixelValue = -5  # "US or SS"
    made.ContentSequence = list(items)
    return made


def plainly(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@settings(deadline=None, max_examples=150)
@given(first=ITEMS, second=ITEMS, depth=st.integers(0, 3))
def test_any_items_are_written_as_by_pydicom(
    first: dict[str, object], second: dict[str, object], depth: int
) -> None:
    nested, shared = item(first), item(second)
    for _ in range(depth):
        around = item(second)
        around.ContentSequence = [nested, shared, shared]
        nested = around
    quick = to_bytes(with_items(nested, shared))
    assert quick == plainly(with_items(nested, shared))
    ItemWriter().sequence([nested, shared])  # and not by way of pydicom


@pytest.mark.parametrize(
    "unusual",
    [
        {"CodeMeaning": "M\u00fcller"},
        {"PixelRepresentation": 0, "SmallestImagePixelValue": 5},
        {"TextValue": "x" * 20, "CodeValue": "y" * 70_000},
    ],
)
def test_what_is_unusual_is_left_to_pydicom(unusual: dict[str, object]) -> None:
    made = item(unusual)
    with pytest.raises(Unusual):
        ItemWriter().sequence([made])
    assert to_bytes(with_items(made)) == plainly(with_items(item(unusual)))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_items_that_were_read_are_written_as_by_pydicom(syntax: UID) -> None:
    made = with_items(item({"CodeValue": "1", "ImagePositionPatient": ["1.0", "2", "3e1"]}))
    made.file_meta.TransferSyntaxUID = syntax
    read = dcmread(BytesIO(plainly(made)))
    target = with_items(*read.ContentSequence)
    assert to_bytes(target) == plainly(target)
    assert to_bytes(read) == plainly(read)
    assert str(read) and to_bytes(read) == plainly(read)  # every element has been looked at


@pytest.mark.parametrize("name", ["multi-frame-mr", "organ-and-lesions-ct", "still-us"])
def test_results_of_every_kind_are_written_as_by_pydicom(name: str, tmp_path: Path) -> None:
    made = situation(name, tmp_path)
    for result in encode_results(made.lesion_map, made.measurements, made.context, frozenset(KINDS)):
        assert result.content == plainly(result.dataset), result.kind
        for element in result.dataset:
            if element.VR == "SQ":
                ItemWriter().sequence(element.value)
