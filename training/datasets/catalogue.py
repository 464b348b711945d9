"""The layouts of data sets that an experiment can name, and how to open one."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from training.cases import DataSet
from training.datasets.brain_slices import BrainSlices
from training.datasets.busi import Busi
from training.datasets.glioblastoma import Glioblastoma
from training.datasets.hippocampus import Hippocampus
from training.datasets.lidc import LidcCrops
from training.datasets.pairs import Pairs
from training.errors import DataError

FORMATS: dict[str, Callable[..., DataSet]] = {
    "lidc-crops": LidcCrops,
    "busi": Busi,
    "hippocampus": Hippocampus,
    "brain-slices": BrainSlices,
    "glioblastoma": Glioblastoma,
    "pairs": Pairs,
}


def open_dataset(format: str, folder: Path, options: dict[str, Any]) -> DataSet:
    """The data set in `folder`; `options` are the fields of its class besides `folder`.

    Lists among the options become tuples. Raises DataError for an unknown format, an unknown
    option, a missing one, or a value that the format refuses. Files are not read yet.
    """
    if format not in FORMATS:
        raise DataError(f"data format {format!r} is not known; known are {', '.join(FORMATS)}")
    make = FORMATS[format]
    known = [name for name in signature(make).parameters if name != "folder"]
    named = ", ".join(known) or "none"
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DataError(f"data format {format!r} has no option {', '.join(unknown)}; its options are {named}")
    settled = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    try:
        return make(folder, **settled)
    except TypeError as error:
        raise DataError(f"data format {format!r}: {error}; its options are {named}") from error
