"""The image library of a report (TID 1600): the images that it refers to, and how they lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from highdicom.sr.templates import _get_coded_modality  # 0.28.2 has the table nowhere else
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicomnode.encode.concepts import SOURCE
from dicomnode.encode.sources import ImageReference
from dicomnode.encode.tree import Relationship, code_item, container, image_item, number_item, uid_item
from dicomnode.study import text

CROSS_SECTIONAL = ("CT", "MR", "PT")
GEOMETRY = ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient")
ACQUISITION: Relationship = "HAS ACQ CONTEXT"
MILLIMETRES = codes.UCUM.Millimeter
PIXELS = Code("{pixels}", "UCUM", "Pixels")
COSINES = Code("{-1:1}", "UCUM", "{-1:1}")
POSITION = tuple(getattr(codes.DCM, f"ImagePositionPatient{axis}") for axis in "XYZ")
ORIENTATION = tuple(
    getattr(codes.DCM, f"ImageOrientationPatient{line}{axis}") for line in ("Row", "Column") for axis in "XYZ"
)


def image_library(images: Sequence[Dataset]) -> list[Dataset]:
    """The container with an entry for each header; none for no image, nor for classes of unknown modality."""
    groups: dict[tuple[Any, ...], list[Dataset]] = defaultdict(list)
    try:
        for image in images:
            modality = _modality(str(image.SOPClassUID))
            groups[tuple(modality), image.get("FrameOfReferenceUID")].append(_entry(image, modality))
    except ValueError:
        return []
    content = [container(codes.DCM.ImageLibraryGroup, entries) for entries in groups.values()]
    return [container(codes.DCM.ImageLibrary, content)] if content else []


@cache
def _modality(sop_class_uid: str) -> Code:
    """Raises ValueError for a class that CID 29 has no modality for."""
    found: Code = _get_coded_modality(sop_class_uid)
    return found


def _entry(image: Dataset, modality: Code) -> Dataset:
    content = [code_item(codes.DCM.Modality, modality, ACQUISITION)]
    if "FrameOfReferenceUID" in image:
        content.append(uid_item(codes.DCM.FrameOfReferenceUID, image.FrameOfReferenceUID, ACQUISITION))
    content.append(number_item(codes.DCM.PixelDataRows, image.Rows, PIXELS, ACQUISITION))
    content.append(number_item(codes.DCM.PixelDataColumns, image.Columns, PIXELS, ACQUISITION))
    content += _geometry(image)
    named = ImageReference(str(image.SOPClassUID), str(image.SOPInstanceUID), None)
    return image_item(SOURCE, named, "CONTAINS", content)


def _geometry(image: Dataset) -> Iterator[Dataset]:
    """How a slice lies; nothing where the top level of its header does not say all of it (multi-frame)."""
    if text(image, "Modality") not in CROSS_SECTIONAL or not all(text(image, word) for word in GEOMETRY):
        return
    row_spacing_mm, column_spacing_mm = image.PixelSpacing
    measured = [
        (codes.DCM.HorizontalPixelSpacing, column_spacing_mm),
        (codes.DCM.VerticalPixelSpacing, row_spacing_mm),
        (codes.DCM.SliceThickness, image.SliceThickness),
        *zip(POSITION, image.ImagePositionPatient, strict=True),
    ]
    for name, value in measured:
        yield number_item(name, value, MILLIMETRES, ACQUISITION)
    for name, value in zip(ORIENTATION, image.ImageOrientationPatient, strict=True):
        yield number_item(name, value, COSINES, ACQUISITION)
    if text(image, "SpacingBetweenSlices"):
        spacing_mm = image.SpacingBetweenSlices
        yield number_item(codes.DCM.SpacingBetweenSlices, spacing_mm, MILLIMETRES, ACQUISITION)
