"""`dicomnode verify`: sound results pass, a damaged one is named with the complaint, and absence is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicomnode.__main__ import app
from dicomnode.show import validators
from tests.dicomnode.encode.situations import saved, situation
from tests.real_parts import require_file, require_program

pytestmark = pytest.mark.real_parts


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A segmentation and its two reports beside a file that is neither."""
    folder = tmp_path / "results"
    folder.mkdir()
    saved(situation("straight-line", tmp_path / "source"), folder)
    (folder / "measurements.json").write_text("{}")
    return folder


def verdicts(folder: Path, exit_code: int) -> dict[tuple[str, str], dict[str, object]]:
    done = CliRunner().invoke(app, ["verify", str(folder), "--json"])
    assert done.exit_code == exit_code, done.output
    return {(Path(item["path"]).name, item["validator"]): item for item in json.loads(done.stdout)}


@pytest.mark.slow
def test_sound_results_pass_every_validator(results: Path) -> None:
    for program in ("dciodvfy", "dsrdump", "java", "segimage2itkimage"):
        require_program(program)
    found = verdicts(results, exit_code=0)
    assert {state["state"] for state in found.values()} == {"passed"}, found
    judged = {name: {v for n, v in found if n == name} for name, _ in found}
    assert judged.keys() == {"seg.dcm", "sr_measurements.dcm", "sr_volumes.dcm"}
    assert judged["seg.dcm"] == {"dciodvfy", "dcmqi segimage2itkimage"}
    assert len(judged["sr_volumes.dcm"]) == 5


def test_a_damaged_report_is_named_with_the_complaint(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_program("dciodvfy")
    quick = [validator for validator in validators.VALIDATORS if validator.name != "PixelMed"]
    monkeypatch.setattr(validators, "VALIDATORS", quick)
    report = dcmread(results / "sr_volumes.dcm")
    del report.CompletionFlag
    report.save_as(results / "sr_volumes.dcm")
    found = verdicts(results, exit_code=1)
    complaint = found["sr_volumes.dcm", "dciodvfy"]
    assert complaint["state"] == "failed"
    assert "CompletionFlag" in str(complaint["complaints"])
    assert found["sr_measurements.dcm", "dciodvfy"]["state"] == "passed"


def test_what_is_not_installed_is_said_and_judges_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validators, "_find", lambda program: None)
    found = verdicts(results, exit_code=1)
    assert {state["state"] for state in found.values()} == {"not installed"}


def test_a_validator_that_does_not_come_to_its_end_has_passed_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_file(validators.PIXELMED_JAR)
    monkeypatch.setattr(validators, "_find", lambda program: require_program("true"))
    verdict = verdicts(results, exit_code=1)["sr_volumes.dcm", "PixelMed"]
    assert verdict["state"] == "failed"
    assert "ended before it said 'IOD validation complete'" in str(verdict["complaints"])


def test_a_folder_without_results_is_no_success(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert done.exit_code == 1
    assert "no segmentation or report" in done.stdout
