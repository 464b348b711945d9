"""The unit of the service: systemd takes it, it is hardened, and what it names is in the program.

Not covered: a start by systemd itself, which needs a machine of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer

import dicomnode.__main__
from dicomnode.commands.options import ConfigOption
from dicomnode.processes import STOP_TIMEOUT_S
from tests.real_parts import require_program
from tests.test_docs import commands

UNIT = Path(__file__).parent.parent / "deploy/systemd/lesion-node.service"
EXPOSURE = 2.0
"""By `systemd-analyze security`, from 0 (sealed off) to 10; most services are at 9 and above."""


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text("utf-8"), re.M)


@pytest.mark.real_parts
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("dicomnode"))
    here = UNIT.read_text("utf-8").replace("/opt/node/bin/dicomnode", program)
    copy = tmp_path / UNIT.name
    copy.write_text(here, "utf-8")
    done = run("verify", str(copy))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.real_parts
def test_a_misspelt_hardening_would_be_noticed(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8").replace("ProtectSystem=", "ProtectSytem="), "utf-8")
    assert "ProtectSytem" in run("verify", str(copy)).stderr


@pytest.mark.real_parts
def test_the_exposure_stays_low() -> None:
    limit = str(int(EXPOSURE * 10))
    done = run("security", "--offline=true", "--no-pager", f"--threshold={limit}", str(UNIT))
    assert done.returncode == 0, done.stdout[-200:]
    strict = run("security", "--offline=true", "--no-pager", "--threshold=5", str(UNIT))
    assert strict.returncode != 0  # the threshold counts


def test_what_the_unit_runs_and_sets_is_in_the_program() -> None:
    (line,) = setting("ExecStart")
    _, *words = line.split()
    assert f"dicomnode {' '.join(words)}" in set(commands("dicomnode", command()))
    (environment,) = setting("Environment")
    assert "DICOMNODE_CONFIG=/etc/lesion-node/node.toml" in environment
    assert typing.get_args(ConfigOption)[1].envvar == "DICOMNODE_CONFIG"


def test_the_service_waits_for_the_roles_to_finish() -> None:
    (seconds,) = setting("TimeoutStopSec")
    assert float(seconds) > STOP_TIMEOUT_S


def test_only_the_folder_of_the_data_can_be_written() -> None:
    assert setting("ProtectSystem") == ["strict"]
    assert setting("ReadWritePaths") == []
    assert setting("StateDirectory") == ["lesion-node"]
    assert setting("UMask") == ["0077"]


def command() -> object:
    return typer.main.get_command(dicomnode.__main__.app)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = require_program("systemd-analyze")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
