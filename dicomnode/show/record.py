"""The measurements of one run as plain JSON values."""

from __future__ import annotations

from typing import Any

from inference.measure import Absent, Axis, LesionMeasurement, Quantity

QUANTITIES = (
    "volume",
    "largest_diameter",
    "surface",
    "area",
    "mean",
    "standard_deviation",
    "minimum",
    "maximum",
)


def measurement_record(measurement: LesionMeasurement) -> dict[str, Any]:
    """One lesion. What is absent carries its reason instead of a value."""
    record: dict[str, Any] = {
        "number": measurement.number,
        "label": measurement.label.name,
        "voxel_count": measurement.voxel_count,
        "key_slice": measurement.key_slice,
        "slice_range": [measurement.first_slice, measurement.last_slice],
        "truncated": measurement.truncated,
        "long_axis": _axis(measurement.long_axis),
        "short_axis": _axis(measurement.short_axis),
    }
    centroid = measurement.centroid_lps_mm
    record["centroid_lps_mm"] = (
        {"absent": centroid.reason} if isinstance(centroid, Absent) else [round(v, 3) for v in centroid]
    )
    for name in QUANTITIES:
        record[name] = _quantity(getattr(measurement, name))
    return record


def _quantity(quantity: Quantity | Absent) -> dict[str, Any]:
    if isinstance(quantity, Absent):
        return {"absent": quantity.reason}
    return {"value": round(quantity.value, 3), "unit": quantity.unit}


def _axis(axis: Axis | Absent) -> dict[str, Any]:
    if isinstance(axis, Absent):
        return {"absent": axis.reason}
    return {
        **_quantity(axis.length),
        "slice": axis.slice_index,
        "start_row_column": list(axis.start),
        "end_row_column": list(axis.end),
    }
