"""Options and output that the commands share."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from sqlalchemy.exc import OperationalError

from dicomnode.commands.person import account
from dicomnode.config import load_settings
from dicomnode.errors import TransientError
from dicomnode.opening import opened_database
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="DICOMNODE_CONFIG", help="The node's configuration file."),
]
LimitOption = Annotated[int, typer.Option(min=1, help="How many at most.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of a table.")]

DEFAULT_CONFIG = Path("config/node.toml")

FULL_WIDTH = 10_000
console = Console(highlight=False, width=None if sys.stdout.isatty() else FULL_WIDTH)
"""What other programs and files get is one line for each line, however long."""


def open_database(settings: Settings) -> Database:
    """The node's database with its schema up to date. Raises TransientError when it cannot be had."""
    try:
        return opened_database(settings)
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise TransientError(
            f"the database {settings.database_url} cannot be used ({reason}); start its server, or correct "
            "[database] or node.data"
        ) from error
    except OSError as error:
        raise TransientError(
            f"{error.filename or settings.node.data} cannot be used ({error.strerror}); run this as the user "
            "of the node, or correct node.data"
        ) from error


def open_node(config: Path) -> tuple[Settings, Database]:
    """Settings and database of the node that `config` describes."""
    settings = load_settings(config)
    return settings, open_database(settings)


def print_json(value: Any) -> None:
    """Machine-readable output on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def table_of(*headings: str, title: str | None = None) -> Table:
    """A table that folds what does not fit and cuts nothing: UIDs are there to be copied."""
    return Table(*(Column(heading, overflow="fold") for heading in headings), title=title)


def admin_audit() -> Audit:
    """Records what the person who typed a command does."""
    return Audit(f"admin {account()}")


def local_time(at: datetime) -> str:
    """A time for people: local, with its offset."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S%z}"
