"""What the commands share: their options, and how they talk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()
complaints = Console(stderr=True)

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment file.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE_DIR", help="Folder of the model bundle.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder of `fit`.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="Data folder instead of the experiment's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, so that output can be piped."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=complaints, transient=True) as bar:
        yield bar


def print_json(content: dict[str, Any] | list[Any]) -> None:
    """JSON on standard output, unstyled."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")
