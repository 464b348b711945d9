"""A coded concept as plain data, and the units that measurements use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Code(BaseModel):
    """Code value, coding scheme and meaning (DICOM PS3.3 section 8.8, Code Sequence Macro)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)
