"""The self-test sees what it should: one run through a temporary node, then the same objects with defects."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydicom import Dataset

from dicomnode.checks.finding import Finding, Verdict
from dicomnode.errors import PermanentError
from dicomnode.selftest import run


@pytest.mark.slow
def test_the_phantom_comes_back_voxel_for_voxel_and_defects_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
