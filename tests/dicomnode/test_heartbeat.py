"""A job that never returns ends its own process, whatever it hangs in. Real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dicomnode.work.worker import EXIT_TIMED_OUT

PROGRAM = """
import ctypes, time
from dicomnode.settings.node import WorkerSettings
from dicomnode.work.worker import Heartbeat

rules = WorkerSettings(job_timeout_s=1, lease_s=6)
with Heartbeat(lambda reason: print(reason, flush=True), lambda: True, rules):
    {hang}
"""
PATIENCE_S = 120.0


def run(hang: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(hang=hang)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.slow
def test_a_hanging_job_is_handed_back_and_its_process_ends() -> None:
    ended = run("time.sleep(10_000)")
    assert ended.returncode == EXIT_TIMED_OUT
    assert "the job took longer than 1 s (worker.job_timeout_s)" in ended.stdout


@pytest.mark.slow
def test_a_job_that_hangs_in_native_code_and_keeps_the_interpreter_ends_too() -> None:
    ended = run("ctypes.PyDLL(None).sleep(10_000)")
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr  # where it hung is in the log


@pytest.mark.slow
def test_a_job_that_returns_leaves_its_process_alone() -> None:
    assert run("pass\ntime.sleep(8)").returncode == 0
