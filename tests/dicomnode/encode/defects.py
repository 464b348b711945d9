"""Defects that are planted into sound results, to see which gate catches each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import AREA, VOLUME
from dicomnode.encode.content import child, children, key, name_of
from dicomnode.forms import ResultKind

Modality = Literal["CT", "MR", "US"]


@dataclass(frozen=True)
class Defect:
    """One way to break an object of one kind; `says` is a pattern of the refusal.

    `unlike` gives the reason why a modality cannot have it.
    """

    kind: ResultKind
    plant: Callable[[Dataset], None]
    says: str
    unlike: Mapping[Modality, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


def in_group(report: Dataset, concept: Code, index: int = 0) -> Dataset:
    """The first item of a concept in one measurement group."""
    found = child(measurement_groups(report)[index], concept)
    assert found is not None
    return found


def below(report: Dataset, container: Code) -> Dataset:
    found = child(report, container)
    assert found is not None
    return found


def remove(parent: Dataset, concept: Code) -> None:
    parent.ContentSequence = [c for c in children(parent) if name_of(c) != key(concept)]


def set_value(item: Dataset, value: float) -> None:
    item.MeasuredValueSequence[0].NumericValue = value


def number_of(report: Dataset) -> Dataset:
    """The volume of lesion 1, or its area where the images have no place in the patient."""
    volume = child(measurement_groups(report)[1], VOLUME)
    return volume if volume is not None else in_group(report, AREA)


def unit_of(item: Dataset) -> Dataset:
    unit: Dataset = item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
    return unit


def code_of(item: Dataset) -> Dataset:
    code: Dataset = item.ConceptCodeSequence[0]
    return code
