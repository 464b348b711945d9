"""What decides that a study is complete: `[assembly]` and `[[required]]` of `node.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dicomnode.settings.section import Conditions, Name, Section


class AssemblySettings(Section):
    """When a study is complete: the first of these."""

    quiet_period_s: float = Field(default=30.0, gt=0.0)
    deadline_s: float = Field(default=1800.0, gt=0.0)
    settle_s: float = Field(default=0.5, gt=0.0)
    """A pause this long must pass before the peer is asked for its count."""
    count_interval_s: float = Field(default=5.0, gt=0.0)
    incomplete: Literal["process", "park"] = "process"
    """What becomes of a study of which the peer's count says that instances are missing."""
    retrieve_after_s: float = Field(default=10.0, gt=0.0)
    """After a pause this long, missing instances are fetched from a peer with `retrieve_missing`."""

    @model_validator(mode="after")
    def _ordered(self) -> AssemblySettings:
        if self.deadline_s < self.quiet_period_s:
            raise ValueError("deadline_s must not be below quiet_period_s")
        return self


class RequiredSeries(Section):
    """One series that must be there."""

    name: Name
    when: Conditions


class RequiredSettings(Section):
    """Studies with a series that meets `when` are complete with all of these series, and never without."""

    name: Name
    when: Conditions
    pause_s: float = Field(default=5.0, gt=0.0)
    """So long nothing new must have come, for the last of the series may still grow."""
    series: tuple[RequiredSeries, ...] = Field(min_length=1)
