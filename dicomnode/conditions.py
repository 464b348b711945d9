"""Conditions on a series, each checked on its own so that every answer can be explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset

from dicomnode.settings.section import Conditions, Range
from dicomnode.study import Series, items, text

PLANES = ("sagittal", "coronal", "axial")  # normal along L, P, S


@dataclass(frozen=True)
class Check:
    """One condition on one series: what was wanted, what was found, and whether that fits."""

    condition: str
    wanted: str
    found: str
    passed: bool

    def __str__(self) -> str:
        return say(self.condition, self.wanted, self.found, self.passed)


def say(condition: str, wanted: str, found: str, passed: bool) -> str:
    """The one sentence for a condition; all that explain a decision say it like this."""
    verb = "fits" if passed else "does not fit"
    return f"{condition} {found or '(absent)'} {verb} {wanted}"


def check_series(series: Series, when: Conditions) -> list[Check]:
    """Check every condition that the route sets, in the order of the configuration."""
    return list(_checks(series, when))


def _checks(series: Series, when: Conditions) -> Iterator[Check]:
    header = series.header
    wanted = when.modality.upper()
    yield Check("modality", wanted, series.modality, series.modality.upper() == wanted)
    if when.sop_class:
        yield _matches("sop_class", when.sop_class, header.SOPClassUID.name)
    for condition, keyword in (
        ("body_part_examined", "BodyPartExamined"),
        ("study_description", "StudyDescription"),
        ("series_description", "SeriesDescription"),
        ("protocol_name", "ProtocolName"),
    ):
        pattern = getattr(when, condition)
        if pattern:
            yield _matches(condition, pattern, text(header, keyword))
    if when.not_series_description:
        found = _matches("series_description", when.not_series_description, series.description)
        yield Check("not_series_description", f"free of {found.wanted}", found.found, not found.passed)
    if when.orientation:
        plane = orientation(header)
        yield Check("orientation", when.orientation, plane, plane == when.orientation)
    if when.slice_thickness_mm:
        yield _within("slice_thickness_mm", when.slice_thickness_mm, slice_thickness_mm(series))
    if when.instance_count:
        yield _within("instance_count", when.instance_count, float(slice_count(series)))
    yield from _flags(series, when)
    for keyword, pattern in when.tags.items():
        yield _matches(f"tags.{keyword}", pattern, text(header, keyword))


def _flags(series: Series, when: Conditions) -> Iterator[Check]:
    if when.contrast is not None:
        found = bool(text(series.header, "ContrastBolusAgent"))
        yield Check("contrast", str(when.contrast), str(found), found is when.contrast)
    if when.derived is not None:
        found = text(series.header, "ImageType").upper().startswith("DERIVED")
        yield Check("derived", str(when.derived), str(found), found is when.derived)


def _matches(condition: str, pattern: str, found: str) -> Check:
    return Check(condition, f"/{pattern}/", found, re.search(pattern, found, re.IGNORECASE) is not None)


def _within(condition: str, allowed: Range, found: float | None) -> Check:
    low, high = ("" if limit is None else f"{limit:g}" for limit in (allowed.min, allowed.max))
    wanted = f"{low}..{high}"
    if found is None:
        return Check(condition, wanted, "", False)
    above = allowed.min is None or found >= allowed.min
    below = allowed.max is None or found <= allowed.max
    return Check(condition, wanted, f"{found:g}", above and below)


def orientation(header: Dataset) -> str:
    """The plane that the images lie in most nearly; empty when the header does not say."""
    values = _orientation_values(header)
    if values is None:
        return ""
    normal = np.cross(values[:3], values[3:])
    return PLANES[int(np.argmax(np.abs(normal)))]


def _orientation_values(header: Dataset) -> Any:
    values = _value(header, "ImageOrientationPatient")
    if values is None:
        values = _from_functional_groups(header, "PlaneOrientationSequence", "ImageOrientationPatient")
    try:
        array = np.array([float(value) for value in values or []])
    except (TypeError, ValueError):
        return None
    return array if array.shape == (6,) else None


def _from_functional_groups(header: Dataset, sequence: str, keyword: str) -> Any:
    """A value of an enhanced multi-frame image: shared by all frames, else that of the first frame."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in items(header, groups):
            for item in items(group, sequence):
                if (found := _value(item, keyword)) is not None:
                    return found
    return None


def _value(header: Dataset, keyword: str) -> Any:
    """None also where the bytes are no value of its type."""
    try:
        return header.get(keyword)
    except Exception:  # pydicom converts on access, and anything may be in a file
        return None


def slice_thickness_mm(series: Series) -> float | None:
    """SliceThickness (0018,0050) of the series, or None when it does not say."""
    thickness = _value(series.header, "SliceThickness")
    if thickness is None:
        thickness = _from_functional_groups(series.header, "PixelMeasuresSequence", "SliceThickness")
    try:
        return float(thickness)
    except (TypeError, ValueError):
        return None


def slice_count(series: Series) -> int:
    """Number of images: instances, or frames of multi-frame instances."""
    total = 0
    for instance in series.instances:
        frames = text(instance.values, "NumberOfFrames")
        total += int(frames) if frames.isdigit() else 1
    return total
