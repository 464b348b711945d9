"""Options and output that the commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dicomnode.config import load_settings
from dicomnode.records.db import Database, migrate
from dicomnode.settings import Settings

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="DICOMNODE_CONFIG", help="The node's configuration file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of a table.")]

DEFAULT_CONFIG = Path("config/node.toml")

console = Console(highlight=False)


def open_database(settings: Settings) -> Database:
    """The node's database with its schema up to date."""
    database = Database(settings.database_url)
    migrate(database)
    return database


def open_node(config: Path) -> tuple[Settings, Database]:
    """Settings and database of the node that `config` describes."""
    settings = load_settings(config)
    return settings, open_database(settings)


def print_json(value: Any) -> None:
    """Machine-readable output on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))
