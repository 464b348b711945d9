"""Codes of a report that was read back, from the bytes of their sequences."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ComprehensiveSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.encode import content
from dicomnode.encode.content import code_in, name_of


def read_back(
    code_value: str, syntax: UID = ExplicitVRLittleEndian, character_set: str = "ISO_IR 192"
) -> Dataset:
    made, code = Dataset(), Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID, made.SOPInstanceUID = ComprehensiveSRStorage, "1.2"
    made.SpecificCharacterSet = character_set
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = code_value, "99OWN", "anything"
    made.ConceptNameCodeSequence = [code]
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("character_set", ["ISO_IR 192", "ISO_IR 100"])
@pytest.mark.parametrize("value", ["121071", "Größe"])
def test_a_code_is_the_same_before_and_after_pydicom_has_decoded_it(
    value: str, character_set: str, syntax: UID
) -> None:
    item = read_back(value, syntax, character_set)
    assert name_of(item) == (value, "99OWN")
    assert item.ConceptNameCodeSequence[0].CodeValue == value
    assert name_of(item) == (value, "99OWN")


def test_a_code_that_stands_in_many_items_is_decoded_once() -> None:
    content._decoded.cache_clear()
    for _ in range(3):
        assert name_of(read_back("121071")) == ("121071", "99OWN")
    assert content._decoded.cache_info().misses == 1


def test_what_is_not_there_is_no_code() -> None:
    assert code_in(read_back("121071"), "ConceptCodeSequence") == ("", "")
