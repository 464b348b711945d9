"""What the sections of `node.toml` are made of: checked kinds of text, ranges, conditions on series."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydicom.datadict import tag_for_keyword


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression ({error})") from error
    return value


def _keyword(value: str) -> str:
    if tag_for_keyword(value) is None:
        raise ValueError(f"{value!r} is not a DICOM keyword")
    return value


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]*[^\\\x00-\x20][^\\\x00-\x1f]*$")
]
Pattern = Annotated[str, AfterValidator(_pattern)]
Keyword = Annotated[str, AfterValidator(_keyword)]
Network = Annotated[str, AfterValidator(_network)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Port = Annotated[int, Field(ge=1, le=65535)]


LONGEST = {"_timeout_s": 20 * 86_400.0, "_s": 366 * 86_400.0, "_days": 36_600.0}
"""By the unit in its name, the first that fits: sockets and dates cannot count further than these."""


class Section(BaseModel):
    """One table of the file: no unknown keys, no changes after reading, no length of time without end."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _ends(cls, value: object, info: ValidationInfo) -> object:
        longest = next((LONGEST[unit] for unit in LONGEST if str(info.field_name).endswith(unit)), None)
        if longest is not None and isinstance(value, float) and value > longest:
            raise ValueError(f"must be at most {longest:.0f}")
        return value


class Range(Section):
    """A number between `min` and `max`, both included; either may be left out."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_a_table(cls, value: object) -> object:
        if isinstance(value, dict | Range):
            return value
        raise ValueError("write { min = 1.0 }, { max = 5.0 }, or both in one")

    @model_validator(mode="after")
    def _holds(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Conditions(Section):
    """What a series must be to match a route. Patterns are regular expressions, case ignored."""

    modality: str
    sop_class: Pattern | None = None
    body_part_examined: Pattern | None = None
    study_description: Pattern | None = None
    series_description: Pattern | None = None
    not_series_description: Pattern | None = None
    protocol_name: Pattern | None = None
    orientation: Literal["axial", "coronal", "sagittal"] | None = None
    slice_thickness_mm: Range | None = None
    instance_count: Range | None = None
    contrast: bool | None = None
    derived: bool | None = None
    tags: dict[Keyword, Pattern] = {}
    """Any other attribute by its DICOM keyword."""
