"""The regions of an ultrasound image: where it is an image of tissue, and how large its pixels are.

US Region Calibration (DICOM PS3.3 section C.8.5.5). One picture of the screen may hold a B-mode image,
a Doppler spectrum and an ECG, each with its own scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.sequence import Sequence as DicomSequence

from dicomnode.read.frames import FrameHeader

TWO_DIMENSIONAL = 1
"""Region Spatial Format (0018,6012)."""
TISSUE, COLOUR_FLOW = 1, 2
"""Region Data Type (0018,6014)."""
CENTIMETRES = 3
"""Physical Units X/Y Direction (0018,6024) and (0018,6026)."""
SAME_SPACING = 1e-3
"""Relative: over 1000 pixels it is one pixel."""

Spacing = tuple[float, float]


@dataclass(frozen=True)
class Region:
    """A rectangle of the picture. `spacing_mm` is (between rows, between columns) where it is in cm."""

    rows: slice
    columns: slice
    shows_tissue: bool
    spacing_mm: Spacing | None


def read_regions(header: FrameHeader) -> tuple[Region, ...]:
    """The regions of an image; empty when it declares none, or one that does not lie in it.

    Images that were made smaller keep the regions of the original, and then nothing of them holds.
    Raises UnreadableSeries for values that are no numbers.
    """
    items = header.get("SequenceOfUltrasoundRegions")
    if not isinstance(items, DicomSequence):
        return ()
    found = [_region(FrameHeader(header.frame, (item,))) for item in items]
    rows, columns = header.number("Rows") or 0, header.number("Columns") or 0
    for region in found:
        if region is None or region.rows.stop > rows + 1 or region.columns.stop > columns + 1:
            return ()
    return tuple(region for region in found if region is not None)


def pixel_spacing_mm(header: FrameHeader, regions: Sequence[Region]) -> Spacing | None:
    """The spacing that all tissue regions share, else Pixel Spacing where no region is declared at all."""
    if not regions:
        plain = None if header.get("SequenceOfUltrasoundRegions") else header.numbers("PixelSpacing", 2)
        return None if plain is None or min(plain) <= 0 else (plain[0], plain[1])
    spacings = [region.spacing_mm for region in regions if region.shows_tissue]
    first = spacings[0] if spacings else None
    if first is None or any(other is None or not _same(first, other) for other in spacings):
        return None
    return first


def beside_the_tissue(regions: Sequence[Region], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels (row, column) of spectra, traces and scales, where these do not lie over an image of tissue."""
    covered = np.zeros(shape, np.bool_)
    for region in regions:
        covered[region.rows, region.columns] = True
    for region in regions:
        if region.shows_tissue:
            covered[region.rows, region.columns] = False
    return covered


def _same(a: Spacing, b: Spacing) -> bool:
    return bool(np.allclose(a, b, rtol=SAME_SPACING, atol=0.0))


def _region(item: FrameHeader) -> Region | None:
    corners = [
        item.number(f"RegionLocation{corner}")
        for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    ]  # fmt: skip
    left, top, right, bottom = (-1 if corner is None else int(corner) for corner in corners)
    if not (0 <= left <= right and 0 <= top <= bottom):
        return None
    kind = item.number("RegionDataType")
    shows_tissue = item.number("RegionSpatialFormat") == TWO_DIMENSIONAL and kind in (TISSUE, COLOUR_FLOW)
    return Region(slice(top, bottom + 1), slice(left, right + 1), shows_tissue, _spacing_mm(item))


def _spacing_mm(item: FrameHeader) -> Spacing | None:
    """Centimetres become millimetres; a negative increment only says which way the axis runs."""
    units = {item.number("PhysicalUnitsXDirection"), item.number("PhysicalUnitsYDirection")}
    across, down = item.number("PhysicalDeltaX"), item.number("PhysicalDeltaY")
    if units != {CENTIMETRES} or not across or not down:
        return None
    return abs(down) * 10.0, abs(across) * 10.0
