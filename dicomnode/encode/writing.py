"""Objects as the bytes of DICOM files (PS3.10)."""

from __future__ import annotations

from io import BytesIO

from pydicom import Dataset
from pydicom.dataelem import DataElement


def to_bytes(dataset: Dataset) -> bytes:
    """The object as a file: what is stored, verified and sent. Same bytes as `Dataset.save_as` alone writes.

    pydicom 3.0.2 looks for ambiguous value representations in every item and in all items below it,
    so that deep trees are searched many times over. Once, at the root, is enough: items that say they are
    in this encoding already are taken as they are.
    """
    _declare_encoding(dataset)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _declare_encoding(dataset: Dataset) -> None:
    """Call all items below `dataset` that were made here explicit VR little endian."""
    for element in dataset.values():
        if isinstance(element, DataElement) and element.VR == "SQ":
            for item in element.value:
                if item.original_encoding == (None, None):
                    item.set_original_encoding(False, True, item._character_set)
                _declare_encoding(item)
