"""Commands typed into a test, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dicomnode.__main__ import app


class Command:
    """Runs commands against one configuration."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def __call__(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner(env={"COLUMNS": "200", "DICOMNODE_CONFIG": str(self.config)}).invoke(
            app, list(arguments)
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))
