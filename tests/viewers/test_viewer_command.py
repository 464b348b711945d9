"""`make viewer` on a study and its results, up to the page in a browser and the end by Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.dicomnode.encode.situations import saved, written
from tests.real_parts import require_file, require_program
from tests.system.node import children_of
from tests.viewers.browser import RESULT, browser
from tests.viewers.ohif import BUILT

pytestmark = [pytest.mark.slow, pytest.mark.real_parts]

REPOSITORY = Path(__file__).parents[2]
LINE_TIMEOUT_S = 120


def test_the_study_opens_with_its_results_and_ctrl_c_ends_everything(tmp_path: Path) -> None:
    require_program("Orthanc")
    require_file(BUILT / "index.html")
    made = written(tmp_path / "study", spacing_mm=(6.0, 2.0, 2.0))
    (tmp_path / "archive").mkdir()
    saved(made, tmp_path / "archive")
    command = [sys.executable, "-m", "tests.viewers", "--no-browse", "--port", "0"]
    command += [str(tmp_path / "study"), str(tmp_path / "archive")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            address = running.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/viewer\?StudyInstanceUIDs=[0-9.]+", address)
            with browser() as started:
                page = started.new_page()
                page.set_default_timeout(1000 * LINE_TIMEOUT_S)
                page.goto(address)
                page.wait_for_function(f"() => document.querySelectorAll('{RESULT}').length === 3")
                listed = " ".join(page.locator(RESULT).all_inner_texts())
            assert all(title in listed for title in ("Lesions: ", "Diameters: ", "Volumes: "))
            children = children_of(running.pid)
            assert children, "no PACS was started"
            running.send_signal(signal.SIGINT)
            assert running.wait(LINE_TIMEOUT_S) == 0
        finally:
            running.kill()
    assert not [child for child in children if Path(f"/proc/{child}").exists()], "the PACS was left behind"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)


def test_without_a_demo_it_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.viewers", "--no-browse", str(tmp_path)]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 1
    assert "run `make demo` first" in said.stdout
