"""Secrets never stand in `node.toml`: a file that it names holds them, or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from dicomnode.errors import ConfigurationError

SECRET = "secret"
"""Type of the problem of a secret in the configuration; its text is never repeated."""


def _file_of_a_secret(value: Any) -> Any:
    if isinstance(value, str) and ("\n" in value or "-----" in value):
        raise PydanticCustomError(SECRET, "give the path of a file that holds the secret, not the secret")
    return value


SecretFile = Annotated[Path, BeforeValidator(_file_of_a_secret)]


def read_secret(variable: str, file: Path | None) -> str | None:
    """From the environment, else from the file that the settings name. Raises ConfigurationError."""
    if variable in os.environ:
        return os.environ[variable]
    if file is None:
        return None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the secret in {file} cannot be read ({type(error).__name__}); mend the file or set {variable}"
        ) from error
