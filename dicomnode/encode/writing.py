"""Objects as the bytes of DICOM files (PS3.10)."""

from __future__ import annotations

from io import BytesIO

from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filewriter import correct_ambiguous_vr_element

from dicomnode.encode.items import ItemWriter, Unusual


def to_bytes(dataset: Dataset) -> bytes:
    """The object as a file: what is stored, verified and sent. Same bytes as `Dataset.save_as` alone writes.

    Its sequences are encoded here, all else by pydicom, which takes them as if it had read them.
    """
    try:
        return _saved(_with_encoded_sequences(dataset))
    except Unusual:
        return _saved(dataset)


def _saved(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _with_encoded_sequences(dataset: Dataset) -> Dataset:
    """The same root, but for sequences, which are bytes."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_implicit_VR or not syntax.is_little_endian:
        raise Unusual("another encoding")
    writer = ItemWriter()
    root = Dataset()
    root.file_meta, root.preamble = dataset.file_meta, getattr(dataset, "preamble", None)
    for tag, element in dataset._dict.items():
        if isinstance(element, DataElement) and element.VR == "SQ":
            content = writer.sequence(element.value)
            element = RawDataElement(tag, "SQ", len(content), content, 0, False, True)
        elif not isinstance(element, DataElement):
            raise Unusual("an element as it was read")
        root._dict[tag] = element
    for element in list(root._dict.values()):
        if len(str(element.VR)) != 2:  # such as "US or SS": other elements say which
            correct_ambiguous_vr_element(element, root, True)
    root.set_original_encoding(False, True, root._character_set)
    return root
