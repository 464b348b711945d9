"""`[database]` of `node.toml`: a PostgreSQL server in place of the embedded SQLite file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import URL

from dicomnode.errors import ConfigurationError
from dicomnode.settings.secret import SECRET, SecretFile, read_secret
from dicomnode.settings.section import Section

DATABASE_URL = "DICOMNODE_DATABASE_URL"
DATABASE_PASSWORD = "DICOMNODE_DATABASE_PASSWORD"
SCHEMES = ("postgresql://", "postgres://")
DRIVER = "postgresql+psycopg"


def _postgresql(value: str) -> str:
    """No message repeats the text: it may hold a password."""
    try:
        parts = _parts(value)
    except ConfigurationError as error:
        raise PydanticCustomError(SECRET, "{problem}", {"problem": str(error)}) from None
    if "password" in parts:
        raise PydanticCustomError(
            SECRET, "a password may not stand here; put it into the file of database.password_file"
        )
    return value


class DatabaseSettings(Section):
    """Where studies, jobs, deliveries and the audit are kept. Without `url`: in the data folder."""

    url: Annotated[str, AfterValidator(_postgresql)] | None = None
    """A connection URI of PostgreSQL; it may name several hosts, of which the one that can be written is
    taken. The environment variable DICOMNODE_DATABASE_URL takes its place, and may hold a password."""
    password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _whole(self) -> DatabaseSettings:
        if self.password_file and not self.url:
            raise ValueError("password_file needs url too")
        return self

    def address(self, file: Path) -> URL:
        """The database, its password included; `file` is that of the embedded one.

        Raises ConfigurationError when the URL in the environment, or the password's file, cannot be read.
        """
        url = os.environ.get(DATABASE_URL, self.url)
        if url is None:
            return URL.create("sqlite", database=str(file))
        parts = _parts(url)
        password = parts.pop("password", None) or read_secret(DATABASE_PASSWORD, self.password_file)
        return URL.create(
            DRIVER, parts.pop("user", None), password, database=parts.pop("dbname", None), query=parts
        )


def _parts(url: str) -> dict[str, str]:
    """What a connection URI says, by the server's own names. Raises ConfigurationError."""
    if not url.startswith(SCHEMES):
        raise ConfigurationError("the database's url must begin with postgresql://")
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise ConfigurationError(
            "the database's url needs the driver of PostgreSQL; pip install 'pacs-lesion-node[postgres]'"
        ) from error
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except ProgrammingError as error:
        raise ConfigurationError(
            "the database's url is not a connection URI of PostgreSQL (postgresql://USER@HOST:PORT/NAME)"
        ) from error
    if "dbname" not in parts:
        raise ConfigurationError("the database's url names no database (postgresql://USER@HOST:PORT/NAME)")
    return parts
