"""The command line: fit, export, evaluate and scan on synthetic balls; errors in one message."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.crops import ball_mask, write_crops, write_experiment
from tests.training.test_evaluate import write_nrrd
from training.__main__ import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["dicomtrain", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_fit_export_and_evaluate_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_crops(tmp_path / "crops")
    experiment = write_experiment(tmp_path)
    assert call(monkeypatch, "fit", experiment, "--out", tmp_path / "run") == 0
    assert "validation Dice" in capsys.readouterr().out
    assert call(monkeypatch, "export", tmp_path / "run", tmp_path / "bundle") == 0
    assert "bundle holds ball 0.1.0" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate", tmp_path / "bundle", experiment, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["figures"]["n_cases"] == 1
    assert [case["case"] for case in content["evaluation"]["cases"]] == ["CASE_4"]


def test_a_whole_scan_is_segmented_and_compared_with_the_mask_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_crops(tmp_path / "crops")
    experiment = write_experiment(tmp_path)
    call(monkeypatch, "fit", experiment, "--out", tmp_path / "run")
    call(monkeypatch, "export", tmp_path / "run", tmp_path / "bundle")
    ball = ball_mask()
    write_nrrd(tmp_path / "a_image.nrrd", np.where(ball, 30, -850).astype(np.int16))
    write_nrrd(tmp_path / "a_label.nrrd", ball.astype(np.int16))
    capsys.readouterr()

    limits = ("--threshold", "0.0001", "--peak", "0", "--json")
    assert call(monkeypatch, "scan", tmp_path / "bundle", tmp_path / "a_image.nrrd", *limits) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["n_slices"], content["n_lesions"], content["n_hit"]) == (5, 1, 1)


def test_an_error_is_one_message_without_traceback_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fit", tmp_path / "absent.toml", "--out", tmp_path / "run") == 1
    output = capsys.readouterr()
    assert "cannot be read" in output.err
    assert "Traceback" not in output.err + output.out


def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in ("fit", "export", "evaluate", "scan"):
        assert command in text
