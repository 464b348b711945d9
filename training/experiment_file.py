"""Writes an experiment as a file that `read_experiment` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tomli_w

from training.config import NATIVE, Experiment


def write_experiment(experiment: Experiment, path: Path, note: str = "") -> None:
    """Every value of `experiment`, with its data folder relative to `path`; `note` becomes comments."""
    content = _without_nothing(experiment.model_dump(mode="json"))
    content["data"]["folder"] = Path(
        os.path.relpath(experiment.data.folder.resolve(), path.parent.resolve())
    ).as_posix()
    spacing = experiment.preprocessing.spacing_mm
    content["preprocessing"]["spacing_mm"] = [NATIVE if size is None else size for size in spacing]
    comments = "".join(f"# {line}\n" for line in note.splitlines())
    text = comments + tomli_w.dumps(content, multiline_strings=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _without_nothing(content: Any) -> Any:
    """TOML has no null: a key with None is left out, which is the default wherever None may stand."""
    if isinstance(content, dict):
        return {key: _without_nothing(value) for key, value in content.items() if value is not None}
    if isinstance(content, list):
        return [_without_nothing(value) for value in content]
    return content
