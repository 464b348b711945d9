"""Real programs that tests work with: skipped where one is not installed, but never in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """Path of an installed program; skips the test where it is missing, and fails it in CI."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; CI must install it", pytrace=False)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
