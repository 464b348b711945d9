"""A DICOM series as a volume, and a DICOM Segmentation (PS3.3 A.51) on its grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, segread
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut

from inference.volume import Affine, IntensityUnit, Volume
from training.cases import Truth
from training.errors import DataError

SAME_DIRECTION = 1e-3
"""Of a direction cosine: four decimals in a header pass."""
SAME_PLACE_MM = 0.05
"""Headers round positions; no slices of one series lie nearer to each other."""
UNEVEN = 0.1
"""In steps: how far a slice may lie from an even grid; a missing slice is at least half a step."""
LOWEST_CT_NUMBER_HU = -1024.0
"""What declared padding around a CT is raised to, as the node does before inference."""


@dataclass(frozen=True, eq=False)
class Series:
    """A volume and where its slices lie; `frame_of_reference` is empty where the headers have none."""

    volume: Volume
    frame_of_reference: str


def series_files(folder: Path) -> list[Path]:
    """The files of a series, hidden ones left out; raises DataError when there are none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}); give a folder of DICOM files"
        ) from error
    if not files:
        raise DataError(f"{folder} is empty; put the DICOM files of one series there")
    return files


def read_series(folder: Path) -> Series:
    """The one series in `folder`, slices sorted along their normal, rescaled, as float32.

    The unit is "HU" for CT with a rescale, else "arbitrary". A gantry tilt stays in the affine.
    Raises DataError when a file is no single-frame grey image with a place in the patient, or the
    slices are not one even grid.
    """
    slices = [_read_slice(path) for path in series_files(folder)]
    _refuse_mixture(folder, slices)
    normal = np.cross(*_directions(slices[0]))
    slices.sort(key=lambda image: float(_position(image) @ normal))
    affine = _affine(folder, slices, normal)
    voxels = np.stack([_real_world(folder, image) for image in slices])
    volume = Volume(voxels, affine, _unit(slices))
    return Series(volume, str(slices[0].get("FrameOfReferenceUID", "")))


def read_segmentation(path: Path, series: Series) -> Truth:
    """Segment numbers (slice, row, column) on the grid of `series`; slices without a frame are empty.

    Raises DataError when the file is no binary or label map segmentation, when a frame lies on no
    slice of the series, or when segments overlap.
    """
    try:
        seg = segread(path)
    except Exception as error:  # pydicom and highdicom raise what they like on foreign files
        raise DataError(f"{path} cannot be read as a DICOM Segmentation ({error}); fetch it again") from error
    if seg.SegmentationType not in ("BINARY", "LABELMAP"):
        raise DataError(f"{path} is a {seg.SegmentationType} segmentation; convert it to BINARY")
    frame_of_reference = str(seg.get("FrameOfReferenceUID", ""))
    if frame_of_reference and series.frame_of_reference not in ("", frame_of_reference):
        raise DataError(f"{path} has another frame of reference than its series; pair it with its own series")
    truth = np.zeros(series.volume.shape, np.uint8)
    for number in range(1, int(seg.NumberOfFrames) + 1):
        _put_frame(path, seg, number, series.volume, truth)
    return truth


def _put_frame(path: Path, seg: Segmentation, number: int, volume: Volume, truth: Truth) -> None:
    """Write one frame (counted from 1) into `truth`."""
    group = seg.PerFrameFunctionalGroupsSequence[number - 1]
    try:
        values = seg.get_stored_frame(number)
        index = _slice_of(group, seg.SharedFunctionalGroupsSequence[0], volume)
        if seg.SegmentationType == "BINARY":
            segment = _macro("SegmentIdentificationSequence", group, seg.SharedFunctionalGroupsSequence[0])
            values = values * np.uint16(segment.ReferencedSegmentNumber)
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path} frame {number} is malformed ({error}); write the file again") from error
    if index is None or values.shape != truth.shape[1:]:
        raise DataError(f"{path} frame {number} lies on no slice of its series; resample it to the series")
    if values.max() > np.iinfo(truth.dtype).max:
        raise DataError(
            f"{path} has the segment {values.max()}; at most {np.iinfo(truth.dtype).max} can be read"
        )
    if ((truth[index] > 0) & (values > 0)).any():
        raise DataError(f"{path} has segments that overlap on slice {index}; a voxel can have one label only")
    truth[index] += values.astype(np.uint8)


def _slice_of(group: Dataset, shared: Dataset, volume: Volume) -> int | None:
    """The slice of `volume` with the place, directions and spacing of a frame; None when there is none."""
    frame = Dataset()
    frame.ImagePositionPatient = _macro("PlanePositionSequence", group, shared).ImagePositionPatient
    frame.ImageOrientationPatient = _macro("PlaneOrientationSequence", group, shared).ImageOrientationPatient
    frame.PixelSpacing = _macro("PixelMeasuresSequence", group, shared).PixelSpacing
    in_plane = _in_plane(frame)
    expected = volume.affine[:3, 1:3]
    if np.abs(in_plane - expected).max() > SAME_DIRECTION * np.abs(expected).max():
        return None
    places = volume.to_lps_mm([(index, 0, 0) for index in range(volume.shape[0])])
    distances = np.linalg.norm(places - _position(frame), axis=1)
    nearest = int(distances.argmin())
    allowed = max(SAME_PLACE_MM, UNEVEN * volume.spacing_mm[0])
    return nearest if distances[nearest] <= allowed else None


def _macro(keyword: str, group: Dataset, shared: Dataset) -> Dataset:
    found: Dataset = (group if keyword in group else shared)[keyword].value[0]
    return found


def _read_slice(path: Path) -> Dataset:
    try:
        image = dcmread(path)
    except Exception as error:  # pydicom raises what it likes on foreign files
        raise DataError(
            f"{path} cannot be read as DICOM ({error}); fetch it again or take it away"
        ) from error
    if int(image.get("NumberOfFrames") or 1) > 1 or image.get("SamplesPerPixel") != 1:
        raise DataError(f"{path} is no single-frame grey image; convert the series to NIfTI")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if not image.get(keyword):
            raise DataError(f"{path} has no {keyword}: its place is not known; give it as PNG or NIfTI")
    return image


def _refuse_mixture(folder: Path, slices: Sequence[Dataset]) -> None:
    first = slices[0]
    for image in slices[1:]:
        same = (
            image.SeriesInstanceUID == first.SeriesInstanceUID
            and (image.Rows, image.Columns) == (first.Rows, first.Columns)
            and np.abs(_in_plane(image) - _in_plane(first)).max() <= SAME_DIRECTION
        )
        if not same:
            raise DataError(
                f"{folder} mixes series, sizes or orientations ({Path(image.filename).name} differs from "
                f"{Path(first.filename).name}); give each series its own folder"
            )


def _affine(folder: Path, slices: Sequence[Dataset], normal: npt.NDArray[np.float64]) -> Affine:
    """Over (slice, row, column, 1) in LPS mm, for slices in order."""
    positions = np.stack([_position(image) for image in slices])
    affine = np.eye(4)
    affine[:3, 1:3] = _in_plane(slices[0])
    affine[:3, 3] = positions[0]
    if len(slices) == 1:
        affine[:3, 0] = normal * float(slices[0].get("SliceThickness") or 1.0)
        return affine
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    strays = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(slices)), step), axis=1)
    if step @ normal < SAME_PLACE_MM or strays.max() > UNEVEN * (step @ normal):
        raise DataError(
            f"{folder}: slices lie unevenly or at one place (up to {strays.max():.2f} mm off the grid of "
            f"{step @ normal:.2f} mm); complete the series or give it as NIfTI"
        )
    affine[:3, 0] = step
    return affine


def _in_plane(image: Dataset) -> npt.NDArray[np.float64]:
    """Steps (3, 2) in mm to the next row and to the next column."""
    along_row, along_column = _directions(image)
    between_rows, between_columns = (float(value) for value in image.PixelSpacing)
    return np.stack([along_column * between_rows, along_row * between_columns], axis=1)


def _directions(image: Dataset) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit vectors along a row and along a column."""
    cosines = np.array([float(value) for value in image.ImageOrientationPatient])
    return cosines[:3], cosines[3:]


def _position(image: Dataset) -> npt.NDArray[np.float64]:
    return np.array([float(value) for value in image.ImagePositionPatient])


def _real_world(folder: Path, image: Dataset) -> npt.NDArray[np.float32]:
    try:
        values = np.asarray(apply_modality_lut(image.pixel_array, image)).astype(np.float32)
    except Exception as error:  # decoders raise what they like
        name = folder / Path(image.filename).name
        raise DataError(f"pixels of {name} cannot be decoded ({error}); fetch it again") from error
    padded = _is_hounsfield(image) and "PixelPaddingValue" in image
    return np.maximum(values, np.float32(LOWEST_CT_NUMBER_HU)) if padded else values


def _unit(slices: Sequence[Dataset]) -> IntensityUnit:
    return "HU" if all(_is_hounsfield(image) for image in slices) else "arbitrary"


def _is_hounsfield(image: Dataset) -> bool:
    return image.get("Modality") == "CT" and "RescaleIntercept" in image
