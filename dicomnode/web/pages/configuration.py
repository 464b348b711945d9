"""The configuration as this process runs it: read-only, no secrets, with what `dicomnode check` finds."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from starlette.responses import Response

from dicomnode.checks.finding import Finding, Verdict
from dicomnode.config import load_settings
from dicomnode.errors import NodeError
from dicomnode.settings.listing import lines_of
from dicomnode.web.access import page
from dicomnode.web.site import Right, Visit

CHECK_TIMEOUT_S = 120.0


def show_configuration(visit: Visit) -> Response:
    """Every key with its value, section by section."""
    return _page(visit, None)


def check(visit: Visit) -> Response:
    """Run `dicomnode check`; in a process of its own, since it loads the model code to look for a GPU."""
    return _page(visit, _findings(visit.site.config))


def _page(visit: Visit, findings: list[Finding] | None) -> Response:
    sections = {
        name: list(lines_of(name, getattr(visit.site.settings, name)))
        for name in type(visit.site.settings).model_fields
    }
    return visit.page(
        "configuration.html",
        sections={name: lines for name, lines in sections.items() if lines},
        file=visit.site.config,
        changed=_digest(visit.site.config) != visit.site.config_digest,
        problem=_problem(visit.site.config),
        findings=findings,
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _problem(path: Path) -> str:
    """What is wrong with the file as it is now."""
    try:
        load_settings(path)
    except NodeError as error:
        return str(error)
    return ""


def _findings(config: Path) -> list[Finding]:
    command = [sys.executable, "-m", "dicomnode", "check", "--json", "--config", str(config)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
        return [
            Finding(**found | {"verdict": Verdict(found["verdict"])}) for found in json.loads(done.stdout)
        ]
    except subprocess.TimeoutExpired:
        return [Finding("check", Verdict.WRONG, f"not finished within {CHECK_TIMEOUT_S:.0f} s")]
    except (ValueError, TypeError, KeyError):
        told = done.stderr.strip().splitlines() or ["it said nothing"]
        return [Finding("check", Verdict.WRONG, told[-1][:500])]


ROUTES = (
    page("/configuration", show_configuration, Right.SEE_CONFIGURATION),
    page("/configuration/check", check, Right.SEE_CONFIGURATION, ("POST",)),
)
