"""What the reports say in words: the label of a lesion, and what is missing and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dicomnode.encode.concepts import repertoire
from dicomnode.encode.seg import lesion_name
from dicomnode.study import SourceFrame, text
from inference.bundle import ModelCard
from inference.measure import PIXELS, Absent, Axis, LesionMeasurement, Quantity, total_volume
from inference.volume import Volume

TRUNCATED = "touches the border of the image, so its size is a lower bound"
FLAT = "Volume, 3-D diameter and surface are not given: the images have no place in the patient."
NO_UNCERTAINTY = "Volumes are given without an uncertainty: the model gives none that was tested."
SPOKEN_UNITS = {"[hnsf'U]": "HU", "1": ""}
"""UCUM's "1" is a number without a unit: nobody reads "240.7 1"."""
TABLE_HEAD = ("No", "Finding", "Long axis", "Short axis", "Volume", "Area", "Mean", "Image")
IN_PIXELS = "Lengths and areas are in pixels: the images do not say how large a pixel is."


def label_of(measurement: LesionMeasurement) -> str:
    """The label that viewers show beside a lesion."""
    ending = " (cut by the image border)" if measurement.truncated else ""
    return f"{lesion_name(measurement.number)}: {measurement.label.name}{ending}"


def size_of(measurement: LesionMeasurement) -> str:
    """Long axis times short axis, or what there is of them: "17.4 x 15.3 mm"."""
    lengths = [a.length for a in (measurement.long_axis, measurement.short_axis) if isinstance(a, Axis)]
    if not lengths:
        return ""
    values = " x ".join(f"{length.value:.1f}" for length in lengths)
    return f"{values} {spoken(lengths[0].unit)}"


def image_name(frame: SourceFrame) -> str:
    """What viewers call an image: its Instance Number (0020,0013), and the frame where it has several."""
    number = text(frame.instance.values, "InstanceNumber") or "no number"
    return number if frame.frame_number is None else f"{number}, frame {frame.frame_number}"


def numbers_of(measurement: LesionMeasurement, frame: SourceFrame) -> tuple[str, ...]:
    """One line of a table for people; what is not known is a dash. See `TABLE_HEAD`.

    `frame` is that of the key slice.
    """
    return (
        str(measurement.number),
        measurement.label.name + (" (cut by the image border)" if measurement.truncated else ""),
        *(_cell(axis.length if isinstance(axis, Axis) else axis) for axis in (
            measurement.long_axis, measurement.short_axis,
        )),
        _cell(measurement.volume),
        _cell(measurement.area),
        _cell(measurement.mean),
        image_name(frame),
    )  # fmt: skip


def _cell(quantity: Quantity | Absent) -> str:
    if isinstance(quantity, Absent):
        return "-"
    return f"{quantity.value:.1f} {spoken(quantity.unit)}".rstrip()


def spoken(unit: str) -> str:
    """A UCUM unit as people write it."""
    return SPOKEN_UNITS.get(unit, unit.strip("{}"))


def summary(measurements: Sequence[LesionMeasurement], card: ModelCard) -> str:
    """How many lesions there are and their total volume, label by label where there are several.

    A label of the model of which there is nothing is named as well: silence could mean that nobody looked.
    """
    by_label: dict[str, list[LesionMeasurement]] = defaultdict(list)
    for m in measurements:
        by_label[m.label.name].append(m)
    missing = [label for label in card.labels if label.name not in by_label]
    if len(by_label) == 1 and not missing:
        return f"{_total(measurements)}."
    told = [f"{name}: {_total(found)}" for name, found in by_label.items()]
    told += [f"{label.name}: {'not found' if label.kind == 'organ' else 'none seen'}" for label in missing]
    return "; ".join(told) + "."


def looked_for(card: ModelCard) -> list[str]:
    """What a model looked for that found nothing, lesions apart from organs."""
    lesions, organs = ([label.name for label in card.labels if label.kind == k] for k in ("lesion", "organ"))
    told = [f"Looked for: {', '.join(lesions)}. None was seen."] if lesions else []
    if organs:
        outcome = "It was not found." if len(organs) == 1 else "None was found."
        told.append(f"Looked for: {', '.join(organs)}. {outcome}")
    return told


def _total(measurements: Sequence[LesionMeasurement]) -> str:
    """Of lesions of one label, which never overlap."""
    count = len(measurements)
    what = "organ" if measurements[0].label.kind == "organ" else "lesion"
    counted = f"1 {what}" if count == 1 else f"{count} {what}s"
    total = total_volume(tuple(measurements))
    if isinstance(total, Quantity):
        return f"{counted}, total volume {total.value / 1000:.3g} ml"
    return f"{counted}, total volume not given: {total.reason}"


def remarks_on_axes(measurements: Sequence[LesionMeasurement]) -> list[str]:
    """Sentences on lesions that are cut off or in pieces, lack a diameter, or have one in pixels."""
    found = [*_truncated(measurements), *_in_pieces(measurements), *_in_pixels(measurements)]
    for m in measurements:
        for words, axis in (("long axis", m.long_axis), ("short axis", m.short_axis)):
            if isinstance(axis, Absent):
                found.append(f"{lesion_name(m.number)} has no {words}: {axis.reason}.")
    return found


def remarks_on_volumes(measurements: Sequence[LesionMeasurement], volume: Volume) -> list[str]:
    """Sentences on lesions that are cut off or in pieces, or lack one of the values of the volume report."""
    found = [*_truncated(measurements), *_in_pieces(measurements), *_in_pixels(measurements)]
    if volume.thickness_known:
        found.append(NO_UNCERTAINTY if volume.has_geometry else FLAT)
    for m in measurements:
        for concept in repertoire(volume).of_segment:
            value = concept.value(m)
            if isinstance(value, Absent):
                found.append(f"{lesion_name(m.number)} has no {concept.words}: {value.reason}.")
    return found


def _truncated(measurements: Sequence[LesionMeasurement]) -> list[str]:
    return [f"{lesion_name(m.number)} {TRUNCATED}." for m in measurements if m.truncated]


def _in_pieces(measurements: Sequence[LesionMeasurement]) -> list[str]:
    return [
        f"{lesion_name(m.number)} lies in {m.pieces} pieces on its key image; its axes may run across them."
        for m in measurements
        if m.pieces > 1
    ]


def _in_pixels(measurements: Sequence[LesionMeasurement]) -> list[str]:
    """Which lesions have lengths that are no millimetres, and why."""
    named = [lesion_name(m.number) for m in measurements if _is_in_pixels(m)]
    if not named:
        return []
    return [IN_PIXELS if len(named) == len(measurements) else f"{', '.join(named)}: {IN_PIXELS}"]


def _is_in_pixels(measurement: LesionMeasurement) -> bool:
    area = measurement.area
    return isinstance(area, Quantity) and area.unit == PIXELS
