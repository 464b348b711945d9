"""What can go wrong on the way to a model. Every message names the thing, the value and the remedy."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of all errors of this package."""


class ExperimentError(TrainingError):
    """The experiment file cannot be read or contradicts itself."""


class DataError(TrainingError):
    """A case or the manifest is missing, damaged or inconsistent."""


class RunError(TrainingError):
    """A run folder cannot be continued or exported."""
