"""Recomputes what the reports say of each lesion from its voxels and the coordinates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.coding import Code as SrCode

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import (
    AREA,
    FINDING,
    FINDING_SITE,
    LONG_AXIS,
    SHORT_AXIS,
    TRACKING_UID,
    UNITS,
    VOLUME,
    Concept,
    intensity_codes,
    repertoire,
)
from dicomnode.encode.content import CodeKey, child, children, code_in, key, name_of
from dicomnode.encode.context import ResultContext
from dicomnode.encode.parts import segments_by_lesion
from dicomnode.encode.sources import reference
from dicomnode.encode.uids import tracking_uid
from dicomnode.errors import ResultRejected
from dicomnode.study import text
from inference.codes import Code
from inference.labelmap import Lesion, LesionMap
from inference.measure import PIXELS, Absent, Axis, LesionMeasurement, Quantity
from inference.volume import Volume

RELATIVE_TOLERANCE = 1e-5
"""Reports hold seven significant digits, coordinates are 32-bit floats."""

Numbers = dict[CodeKey, tuple[float, CodeKey]]


def check_axes(
    report: Dataset, where: str, measurements: Sequence[LesionMeasurement], context: ResultContext
) -> None:
    """Raise ResultRejected unless the report holds exactly the diameters of `measurements`."""
    groups = _by_lesion(report, where, measurements, context)
    expected = {m.number for m in measurements if isinstance(m.long_axis, Axis)}
    if set(groups) != expected or any(len(found) != 1 for found in groups.values()):
        raise ResultRejected(f"{where}: groups for lesions {sorted(groups)}, expected {sorted(expected)}")
    for m in measurements:
        if m.number in expected:
            for concept, axis in ((LONG_AXIS, m.long_axis), (SHORT_AXIS, m.short_axis)):
                place = f"{where}, lesion {m.number}, {concept.meaning}"
                _check_axis(children(groups[m.number][0], concept), axis, place, context)


def check_volumes(
    report: Dataset,
    where: str,
    lesion_map: LesionMap,
    measurements: Sequence[LesionMeasurement],
    context: ResultContext,
    segs: tuple[Dataset, ...],
) -> None:
    """Raise ResultRejected unless the report holds exactly the numbers that the voxels give.

    Those of the lesion map, which a segmentation that was read back equals voxel by voxel (`check_segs`).
    """
    groups = _by_lesion(report, where, measurements, context)
    places = segments_by_lesion(segs, context)
    for m, lesion in zip(measurements, lesion_map.lesions, strict=True):
        place = f"{where}, lesion {m.number}"
        segments, contours = _split(groups.get(m.number, []))
        if len(segments) != 1 or len(contours) != 1:
            raise ResultRejected(f"{place}: {len(contours)} contours and {len(segments)} segments")
        seg, number = places[m.number]
        if segments[0][1:] != (str(seg.SOPInstanceUID), number):
            raise ResultRejected(f"{place}: refers to segment {segments[0][2]}")
        contour = next(item for item in children(contours[0]) if text(item, "ValueType") == "SCOORD")
        _check_drawn_on(contour, m.key_slice, f"{place}, contour", context)
        volume = context.source.volume
        recomputed = _recompute(lesion_map, m, lesion, volume)
        said = repertoire(volume)
        for group, concepts in ((contours[0], said.of_contour), (segments[0][0], said.of_segment)):
            _check_numbers(_numbers(group, place), concepts, m, recomputed, place)


def _by_lesion(
    report: Dataset, where: str, measurements: Sequence[LesionMeasurement], context: ResultContext
) -> dict[int, list[Dataset]]:
    """Measurement groups by lesion number; every group needs the lesion's tracking UID and finding."""
    lesions = {tracking_uid(context, m.number): m for m in measurements}
    found: dict[int, list[Dataset]] = defaultdict(list)
    for group in measurement_groups(report):
        tracking = child(group, TRACKING_UID)
        uid = "missing" if tracking is None else text(tracking, "UID")
        if uid not in lesions:
            raise ResultRejected(f"{where}: tracking UID {uid} is of no lesion in the segmentation")
        label = lesions[uid].label
        place = f"{where}, lesion {lesions[uid].number}"
        _check_code(group, FINDING, label.type, f"{place}: finding")
        if label.site is not None:
            _check_code(group, FINDING_SITE, label.site, f"{place}: finding site")
        found[lesions[uid].number].append(group)
    return found


def _check_code(group: Dataset, concept: SrCode, expected: Code, place: str) -> None:
    item = child(group, concept)
    code = ("", "") if item is None else code_in(item, "ConceptCodeSequence")
    if code != (expected.value, expected.scheme):
        raise ResultRejected(f"{place} {code[0] or 'missing'}, expected {expected.value}")


def _check_axis(items: list[Dataset], axis: Axis | Absent, place: str, context: ResultContext) -> None:
    if isinstance(axis, Absent):
        if items:
            raise ResultRejected(f"{place}: reported although {axis.reason}")
        return
    if len(items) != 1:
        raise ResultRejected(f"{place}: reported {len(items)} times")
    value, unit = _value(items[0])
    coordinates = next(item for item in children(items[0]) if text(item, "ValueType") == "SCOORD")
    _check_drawn_on(coordinates, axis.slice_index, place, context)
    columns_rows = np.array([float(number) for number in coordinates.GraphicData]).reshape(-1, 2)
    spacing_mm = context.source.volume.pixel_spacing_at(axis.slice_index)
    if (axis.length.unit == PIXELS) != (spacing_mm is None):
        raise ResultRejected(f"{place}: in {axis.length.unit}, but the pixel spacing is {spacing_mm}")
    row_spacing_mm, column_spacing_mm = spacing_mm or (1.0, 1.0)
    across = np.diff(columns_rows, axis=0)[0] * (column_spacing_mm, row_spacing_mm)
    drawn = Quantity(float(np.linalg.norm(across)), axis.length.unit)
    for what, expected in (("its coordinates", drawn), ("the measurement", axis.length)):
        _check_value(value, unit, expected, f"{place} against {what}")
    expected_points = np.array([axis.start, axis.end])[:, ::-1] + 0.5
    if not np.allclose(columns_rows, expected_points, atol=1e-3):
        raise ResultRejected(f"{place}: drawn elsewhere than measured")


def _check_drawn_on(coordinates: Dataset, slice_index: int, place: str, context: ResultContext) -> None:
    """Raise ResultRejected unless the coordinates are on the image, and frame, behind a slice."""
    image = children(coordinates)[0].ReferencedSOPSequence[0]
    source = reference(context.source.frames[slice_index])
    frame = text(image, "ReferencedFrameNumber")
    if (str(image.ReferencedSOPInstanceUID), int(frame) if frame else None) != (
        source.sop_instance_uid,
        source.frame_number,
    ):
        raise ResultRejected(f"{place}: drawn on another image than slice {slice_index}")


def _split(groups: list[Dataset]) -> tuple[list[tuple[Dataset, str, int]], list[Dataset]]:
    """Groups that refer to a segment (with its object and number), and groups that hold a contour."""
    segments, contours = [], []
    for group in groups:
        for item in children(group):
            if text(item, "ValueType") == "SCOORD":
                contours.append(group)
            elif text(item, "ValueType") == "IMAGE":
                segment = item.ReferencedSOPSequence[0]
                number = int(segment.ReferencedSegmentNumber)
                segments.append((group, str(segment.ReferencedSOPInstanceUID), number))
    return segments, contours


def _recompute(
    lesion_map: LesionMap, measurement: LesionMeasurement, lesion: Lesion, volume: Volume
) -> dict[CodeKey, Quantity]:
    """Area, or volume and intensity statistics, straight from the voxels."""
    if not volume.has_geometry:
        pixels = np.count_nonzero(lesion_map.plane(lesion.number, measurement.key_slice))
        row_mm, column_mm = volume.pixel_spacing_at(measurement.key_slice) or (1.0, 1.0)
        unit = PIXELS if volume.pixel_spacing_at(measurement.key_slice) is None else "mm2"
        return {key(AREA): Quantity(pixels * row_mm * column_mm, unit)}
    mask = lesion_map.mask(lesion)
    found = {key(VOLUME): Quantity(volume.volume_mm3(mask, lesion.box[0].start), "mm3")}
    if isinstance(measurement.mean, Quantity):
        found |= _statistics(
            volume.voxels[lesion.box][mask].astype(np.float64), measurement.mean.unit, volume
        )
    return found


def _statistics(values: npt.NDArray[np.float64], unit: str, volume: Volume) -> dict[CodeKey, Quantity]:
    mean, deviation, minimum, maximum = (key(code) for code in intensity_codes(volume))
    found = {
        mean: Quantity(float(values.mean()), unit),
        minimum: Quantity(float(values.min()), unit),
        maximum: Quantity(float(values.max()), unit),
    }
    if values.size > 1:
        found[deviation] = Quantity(float(values.std(ddof=1)), unit)
    return found


def _numbers(group: Dataset, place: str) -> Numbers:
    found: Numbers = {}
    for item in children(group):
        if text(item, "ValueType") == "NUM":
            if name_of(item) in found:
                raise ResultRejected(f"{place}: {name_of(item)[0]} is reported twice")
            found[name_of(item)] = _value(item)
    return found


def _check_numbers(
    numbers: Numbers,
    concepts: Sequence[Concept],
    measurement: LesionMeasurement,
    recomputed: dict[CodeKey, Quantity],
    place: str,
) -> None:
    strange = set(numbers) - {key(concept.code) for concept in concepts}
    if strange:
        raise ResultRejected(f"{place}: unknown measurement {sorted(strange)[0][0]}")
    for concept in concepts:
        _check_concept(concept, numbers, measurement, recomputed, f"{place}, {concept.words}")


def _check_concept(
    concept: Concept,
    numbers: Numbers,
    measurement: LesionMeasurement,
    recomputed: dict[CodeKey, Quantity],
    place: str,
) -> None:
    name, measured = key(concept.code), concept.value(measurement)
    if isinstance(measured, Absent):
        if name in numbers:
            raise ResultRejected(f"{place}: reported although {measured.reason}")
        return
    if name not in numbers:
        raise ResultRejected(f"{place}: measured but not reported")
    value, unit = numbers[name]
    _check_value(value, unit, measured, f"{place} against the measurement")
    if name in recomputed:
        _check_value(value, unit, recomputed[name], f"{place} against the decoded SEG")


def _check_value(value: float, unit: CodeKey, expected: Quantity, place: str) -> None:
    if unit != key(UNITS[expected.unit]):
        raise ResultRejected(f"{place}: unit {unit[0]!r}, expected {expected.unit!r}")
    if not math.isclose(value, expected.value, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-4):
        raise ResultRejected(f"{place}: {value:g}, expected {expected.value:g}")


def _value(item: Dataset) -> tuple[float, CodeKey]:
    measured = item.MeasuredValueSequence[0]
    return float(measured.NumericValue), code_in(measured, "MeasurementUnitsCodeSequence")
