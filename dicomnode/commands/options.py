"""Options and output that the commands share."""

from __future__ import annotations

import getpass
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy.exc import OperationalError

from dicomnode.config import load_settings
from dicomnode.errors import ConfigurationError, TransientError
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, is_new, migrate
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="DICOMNODE_CONFIG", help="The node's configuration file."),
]
LimitOption = Annotated[int, typer.Option(min=1, help="How many at most.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of a table.")]

DEFAULT_CONFIG = Path("config/node.toml")

console = Console(highlight=False)


def open_database(settings: Settings) -> Database:
    """The node's database with its schema up to date.

    Whatever this process writes from here on is for the node's user alone. Raises TransientError when the
    database cannot be had, and ConfigurationError when it is a new one although the spool has images.
    """
    os.umask(0o077)
    database = Database(settings.database_url)
    try:
        _refuse_to_begin_anew(settings, database)
        migrate(database)
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise TransientError(
            f"the database {settings.database_url} cannot be used ({reason}); start its server, or correct "
            "[database] or node.data"
        ) from error
    return database


def _refuse_to_begin_anew(settings: Settings, database: Database) -> None:
    """A new database would know nothing of the images in the spool, and the sweep would remove them."""
    if is_new(database) and any(Spool(settings.spool).files()):
        raise ConfigurationError(
            f"{settings.spool} holds images or results, but the database that knows them is not there; "
            "bring it back (see `dicomnode restore` and `dicomnode move-database`), or move the spool away "
            "to begin anew"
        )


def open_node(config: Path) -> tuple[Settings, Database]:
    """Settings and database of the node that `config` describes."""
    settings = load_settings(config)
    return settings, open_database(settings)


def print_json(value: Any) -> None:
    """Machine-readable output on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def admin_audit() -> Audit:
    """Records what the person who typed a command does."""
    return Audit(f"admin {getpass.getuser()}")


def local_time(at: datetime) -> str:
    """A time for people: local, with its offset."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S%z}"
