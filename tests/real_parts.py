"""Real programs that tests work with: skipped where one is not installed, but never in CI."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

ENVIRONMENT = Path(sys.executable).parent
"""Searched last: pynetdicom puts its own `storescu` and `echoscu` there."""


def find_program(name: str) -> str | None:
    """Path of an installed program."""
    outside = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != ENVIRONMENT]
    return shutil.which(name, path=os.pathsep.join(outside)) or shutil.which(name, path=ENVIRONMENT)


def require_program(name: str) -> str:
    """Path of an installed program; skips the test where it is missing, and fails it in CI."""
    return find_program(name) or _missing(name)


def require_file(path: Path) -> str:
    """Path of an installed file; skips the test where it is missing, and fails it in CI."""
    return str(path) if path.exists() else _missing(path.name)


def _missing(name: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; CI must install it", pytrace=False)
    pytest.skip(f"{name} is not installed")
