"""Ultrasound with lesions of known pixels: stills and loops without a place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from dicomnode.selftest.volumes import LESION, NOISE, TISSUE
from dicomnode.series_writer import SeriesIdentity, slice_dataset
from dicomnode.study import Series
from inference.volume import Volume
from tests.phantoms.dicom import read_series, save

Pixels = npt.NDArray[np.uint8]

ROWS, COLUMNS = 48, 64
SPACING_MM = (0.25, 0.5)
"""(between rows, between columns): different, so that a swap shows."""
PLACED_OR_MR = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ScanningSequence", "SequenceVariant", "ScanOptions",
    "MRAcquisitionType", "EchoTime", "RepetitionTime", "EchoTrainLength", "AcquisitionNumber",
)  # fmt: skip
"""What the series writer puts into an MR image, and ultrasound does not have."""


@dataclass(frozen=True, eq=False)
class UltrasoundPhantom:
    """`grey` (frame, row, column) and the lesion number of every pixel."""

    grey: Pixels
    numbers: npt.NDArray[np.uint16]


def ultrasound_phantom(frames: int = 1, seed: int = 3) -> UltrasoundPhantom:
    """Lesion 1 is in every frame and moves by a pixel from one to the next, growing for three frames;
    lesion 2 is smaller and in the first two frames only.
    """
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    numbers = np.zeros((frames, ROWS, COLUMNS), np.uint16)
    for index in range(frames):
        radius = 7 + min(index, 2)
        inside = ((rows - 16) / 6.0) ** 2 + ((columns - 18 - index % 20) / radius) ** 2 <= 1.0
        numbers[index][inside] = 1
        if index < 2:
            numbers[index][(abs(rows - 36) <= 3) & (abs(columns - 48) <= 4)] = 2
    noise = np.random.default_rng(seed).integers(-NOISE, NOISE + 1, numbers.shape)
    return UltrasoundPhantom((np.where(numbers > 0, LESION, TISSUE) + noise).astype(np.uint8), numbers)


def write_stills(
    folder: Path,
    images: Sequence[Pixels],
    identity: SeriesIdentity | None = None,
    spacings_mm: Sequence[tuple[float, float] | None] | None = None,
    photometric: str = "MONOCHROME2",
) -> Series:
    """Each image (row, column) as an instance of its own."""
    identity = identity or SeriesIdentity(modality="US")
    spacings_mm = spacings_mm or [None] * len(images)
    for index, (image, spacing_mm) in enumerate(zip(images, spacings_mm, strict=True)):
        dataset = ultrasound_dataset(image[None], identity, index, spacing_mm, photometric)
        save(dataset, folder / f"US{index + 1:04d}.dcm")
    return read_series(folder)


def write_loop(
    folder: Path,
    grey: Pixels,
    identity: SeriesIdentity | None = None,
    spacing_mm: tuple[float, float] | None = None,
    photometric: str = "MONOCHROME2",
    index: int = 0,
) -> Series:
    """All frames as one Ultrasound Multi-frame Image."""
    dataset = ultrasound_dataset(
        grey, identity or SeriesIdentity(modality="US"), index, spacing_mm, photometric, loop=True
    )
    save(dataset, folder / f"US{index + 1:04d}.dcm")
    return read_series(folder)


def ultrasound_dataset(
    grey: Pixels,
    identity: SeriesIdentity,
    index: int = 0,
    spacing_mm: tuple[float, float] | None = None,
    photometric: str = "MONOCHROME2",
    loop: bool = False,
) -> FileDataset:
    """One instance with `grey` (frame, row, column); photometric interpretation MONOCHROME2, RGB (each
    channel the grey value) or PALETTE COLOR (stored values are turned, and the palette turns them back).
    """
    frames, rows, columns = grey.shape
    empty = Volume(np.zeros((index + 1, rows, columns), np.int16), np.eye(4), "arbitrary")
    dataset = slice_dataset(empty, index, replace(identity, modality="MR"))
    for keyword in PLACED_OR_MR:
        if keyword in dataset:
            delattr(dataset, keyword)
    sop_class = UltrasoundMultiFrameImageStorage if loop else UltrasoundImageStorage
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.Modality = "US"
    if loop:
        dataset.NumberOfFrames = frames
        dataset.FrameTime, dataset.FrameIncrementPointer = 40, 0x00181063
    if spacing_mm is not None:
        dataset.SequenceOfUltrasoundRegions = [region(spacing_mm, (0, 0, columns - 1, rows - 1))]
    _paint(dataset, grey, photometric)
    return dataset


def region(
    spacing_mm: tuple[float, float] | None,
    corners: tuple[int, int, int, int],
    data_type: int = 1,
    spatial_format: int = 1,
) -> Dataset:
    """A region from (left, top) to (right, bottom); centimetres, or no units without a spacing."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = spatial_format, data_type, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = corners[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = corners[2:]
    unit = 0 if spacing_mm is None else 3
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = unit
    row_mm, column_mm = spacing_mm or (0.0, 0.0)
    item.PhysicalDeltaX, item.PhysicalDeltaY = column_mm / 10.0, row_mm / 10.0
    return item


def _paint(dataset: Dataset, grey: Pixels, photometric: str) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PhotometricInterpretation = photometric
    pixels = grey
    if photometric == "RGB":
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        pixels = np.repeat(grey[..., None], 3, axis=-1)
    elif photometric == "PALETTE COLOR":
        pixels = 255 - grey
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            table = (np.arange(255, -1, -1, dtype="<u2") << 8).tobytes()
            setattr(dataset, f"{colour}PaletteColorLookupTableData", table)
    dataset["PixelData"].VR = "OB"
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
