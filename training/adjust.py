"""Experiments with other values than their file has, checked like the file."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from training.config import Experiment, Fitting
from training.errors import ExperimentError


def with_values(experiment: Experiment, sections: dict[str, dict[str, Any]]) -> Experiment:
    """The experiment with other values in some sections; those that are None stay as they are.

    Raises ExperimentError for values that do not fit.
    """
    content = experiment.model_dump()
    for section, values in sections.items():
        content[section] = content[section] | {k: v for k, v in values.items() if v is not None}
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'experiment'}: {e['msg']}" for e in error.errors()]
        raise ExperimentError("the changed experiment is not valid:\n" + "\n".join(lines)) from error


def with_fitting(experiment: Experiment, **values: Any) -> Experiment:
    """The experiment with other values in its section `fitting`; those that are None stay as they are.

    A validation is never later than the last step. Raises ExperimentError for values that do not fit.
    """
    changed = with_values(experiment, {"fitting": values}).fitting
    limited = {**values, "validate_every": min(changed.validate_every, changed.steps)}
    assert limited.keys() <= Fitting.model_fields.keys()
    return with_values(experiment, {"fitting": limited})


def window_size(text: str) -> tuple[int, ...]:
    """`192x192` as (192, 192): rows and columns, or slices, rows and columns.

    Raises ExperimentError for anything else.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts):
        raise ExperimentError(f"window {text!r} is no size; write it like 192x192 or 48x64x64")
    return tuple(int(part) for part in parts)
