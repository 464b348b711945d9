"""The self-test sees what it should: one run through a temporary node, then the same objects with defects.

And what neither it nor the demo may touch. Not covered: what the demo shows.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydicom import Dataset

import dicomnode.demo.__main__ as demo
from dicomnode.checks.finding import Finding, Verdict
from dicomnode.errors import PermanentError
from dicomnode.selftest import run
from dicomnode.settings.database import DATABASE_URL

PRODUCTION = "postgresql://node@production/node"


@pytest.mark.slow
def test_the_phantom_comes_back_voxel_for_voxel_and_defects_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DATABASE_URL, PRODUCTION)
    kept: list[tuple[Any, list[Dataset]]] = []
    compare = run._compare

    def keep(sent: Any, objects: list[Dataset]) -> Finding:
        kept.append((sent, objects))
        return compare(sent, objects)

    monkeypatch.setattr(run, "_compare", keep)
    findings = list(run.self_test("cpu"))
    assert [finding.verdict for finding in findings] == [Verdict.OK] * 5, findings
    assert "all 131072 voxels and 3 lesions" in findings[3].detail

    ((sent, objects),) = kept
    (seg,) = [dataset for dataset in objects if dataset.Modality == "SEG"]
    reports = [dataset for dataset in objects if dataset.Modality == "SR"]
    assert compare(sent, [seg, *reports[:1]]).verdict is Verdict.WRONG
    one_bit = copy.deepcopy(seg)
    one_bit.PixelData = bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]
    assert "1 of 131072 voxels differ" in compare(sent, [one_bit, *reports]).detail
    moved = copy.deepcopy(seg)
    moved.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[0] += 0.1
    with pytest.raises(PermanentError, match="is not where its image is"):
        compare(sent, [moved, *reports])


def test_a_node_that_does_not_start_is_said_to_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.selftest.temporary.CONFIGURATION", "nonsense = {port}")
    findings = list(run.self_test("cpu"))
    assert findings[-1].verdict is Verdict.WRONG


def test_the_database_that_the_environment_names_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(folder: Path, device: str) -> Iterator[Finding]:
        yield Finding("database", Verdict.OK, os.environ.get(DATABASE_URL, "of its own"))

    monkeypatch.setenv(DATABASE_URL, PRODUCTION)
    monkeypatch.setattr(run, "_steps", steps)
    assert [finding.detail for finding in run.self_test("cpu")] == ["of its own"]
    assert os.environ[DATABASE_URL] == PRODUCTION


def test_neither_does_the_demo_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def case() -> NoReturn:
        raise PermanentError(os.environ.get(DATABASE_URL, "of its own"))

    monkeypatch.setenv(DATABASE_URL, PRODUCTION)
    monkeypatch.setattr(demo, "synthetic_case", case)
    for _ in range(2):  # the second begins where the first was broken off
        with pytest.raises(PermanentError, match="of its own"):
            demo.demo(tmp_path / "demo", synthetic=True)


def test_the_demo_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "study.dcm"
    mine.touch()
    for folder in (tmp_path, mine):
        with pytest.raises(PermanentError, match="is not of an earlier demo"):
            demo.demo(folder, synthetic=True)
    assert mine.exists()
