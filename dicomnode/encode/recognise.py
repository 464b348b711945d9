"""Tells our own results from everything else, so that they are never processed again.

The receiver uses this: it must not import highdicom.
"""

from __future__ import annotations

from pydicom import Dataset

from dicomnode.encode.equipment import MANUFACTURER, PROCESSING_EQUIPMENT, PRODUCT
from dicomnode.header_index import HeaderIndex
from dicomnode.study import items, text


def is_own_result(header: Dataset | HeaderIndex) -> bool:
    """Whether a node of our kind made this object.

    Holds for any version and installation. A PACS may rewrite the equipment module, so Contributing
    Equipment (0018,A001) counts as well.
    """
    if text(header, "Manufacturer") == MANUFACTURER and text(header, "ManufacturerModelName") == PRODUCT:
        return True
    return any(_is_our_algorithm(item) for item in items(header, "ContributingEquipmentSequence"))


def _is_our_algorithm(item: Dataset) -> bool:
    purposes = {text(code, "CodeValue") for code in items(item, "PurposeOfReferenceCodeSequence")}
    return text(item, "Manufacturer") == MANUFACTURER and PROCESSING_EQUIPMENT[0] in purposes
