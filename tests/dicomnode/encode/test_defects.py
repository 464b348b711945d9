"""The matrix of planted defects: every one is caught by the node itself before anything leaves.

What validators of others make of the same objects is in docs/defects.md, which `make defects` writes.
"""

from __future__ import annotations

import os
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp
from typing import get_args

import pytest
from pydicom import dcmread

from dicomnode.encode.context import Result
from dicomnode.encode.verify import verify_results
from dicomnode.encode.writing import to_bytes
from dicomnode.errors import ResultRejected
from dicomnode.forms import ResultKind
from tests.dicomnode.encode.defect_table import OWN, complaining, line, listed, not_possible, write
from tests.dicomnode.encode.defects import Defect, Modality
from tests.dicomnode.encode.defects_identity import IDENTITY_DEFECTS
from tests.dicomnode.encode.defects_reports import DIAMETER_DEFECTS, VOLUME_DEFECTS
from tests.dicomnode.encode.defects_seg import SEG_DEFECTS
from tests.dicomnode.encode.situations import Situation, scanned, written

MODALITIES: tuple[Modality, ...] = get_args(Modality)
DEFECTS = (*SEG_DEFECTS, *DIAMETER_DEFECTS, *VOLUME_DEFECTS, *IDENTITY_DEFECTS)


@cache
def sound(modality: Modality) -> tuple[Situation, dict[ResultKind, Result]]:
    """A result without a defect: an oblique CT or MR, a calibrated ultrasound loop."""
    folder = Path(mkdtemp())
    made = scanned(folder, "loop") if modality == "US" else written(folder, "oblique", modality=modality)
    return made, made.encode()


def planted(defect: Defect, modality: Modality) -> tuple[Situation, list[Result], bytes]:
    """The result with the defect in it, and the bytes of the object that has it."""
    made, results = sound(modality)
    broken = dcmread(BytesIO(to_bytes(results[defect.kind].dataset)))
    defect.plant(broken)
    changed = [Result(k, broken if k == defect.kind else r.dataset) for k, r in results.items()]
    return made, changed, to_bytes(broken)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_sound_result_passes(modality: Modality) -> None:
    made, results = sound(modality)
    verify_results(list(results.values()), made.lesion_map, made.measurements, made.context)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: f"{defect.kind}: {defect.name}")
def test_every_planted_defect_is_caught(defect: Defect, modality: Modality) -> None:
    if modality in defect.unlike:
        return
    made, results, _ = planted(defect, modality)
    with pytest.raises(ResultRejected, match=defect.says) as caught:
        verify_results(results, made.lesion_map, made.measurements, made.context)
    for secret in ("Test^", "SOMEBODY", "Else"):
        assert secret not in str(caught.value)


def test_there_are_enough_kinds_of_defects() -> None:
    assert len({(defect.kind, defect.name) for defect in DEFECTS}) == len(DEFECTS) >= 40


def test_the_page_lists_every_defect() -> None:
    assert listed() == {(defect.kind, defect.name) for defect in DEFECTS}


@pytest.mark.slow
@pytest.mark.real_parts
@pytest.mark.timeout(3600)
@pytest.mark.skipif("WRITE_DEFECT_TABLE" not in os.environ, reason="`make defects` asks all validators")
def test_the_page_is_written(tmp_path: Path) -> None:
    rows, unseen = [], 0
    for defect in DEFECTS:
        gates: list[list[str] | str] = []
        for modality in MODALITIES:
            if modality in defect.unlike:
                gates.append(not_possible(defect, modality))
                continue
            path = tmp_path / "planted.dcm"
            path.write_bytes(planted(defect, modality)[2])
            gates.append([OWN, *complaining(path, "SEG" if defect.kind == "seg" else "SR")])
        unseen += all(isinstance(gate, str) or gate == [OWN] for gate in gates)
        rows.append(line(defect, gates))
    write(rows, unseen)


@pytest.mark.slow
@pytest.mark.real_parts
@pytest.mark.parametrize("modality", MODALITIES)
def test_no_validator_complains_of_a_sound_result(modality: Modality, tmp_path: Path) -> None:
    for kind, result in sound(modality)[1].items():
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(to_bytes(result.dataset))
        assert complaining(path, "SEG" if kind == "seg" else "SR") == []
