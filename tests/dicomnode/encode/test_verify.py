"""Results that do not hang together as a whole are rejected before they could leave the node.

Defects of single objects are in `test_defects.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import (
    IMAGING_MEASUREMENTS,
    QUALITATIVE_EVALUATIONS,
)
from dicomnode.encode.content import children
from dicomnode.encode.context import Result
from dicomnode.encode.verify import verify_results
from dicomnode.encode.writing import to_bytes
from dicomnode.errors import ResultRejected
from dicomnode.forms import ResultKind
from inference.measure import Quantity
from tests.dicomnode.encode.defects import below
from tests.dicomnode.encode.situations import ORGAN, Situation, card, drawn, written

Defect = Callable[[Dataset], None]


@pytest.fixture(scope="module")
def situation(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return written(tmp_path_factory.mktemp("oblique"), "oblique")


@pytest.fixture(scope="module")
def sound(situation: Situation) -> dict[ResultKind, Result]:
    return situation.encode()


@pytest.fixture(scope="module")
def none_seen(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return drawn(tmp_path_factory.mktemp("none"))


def rejection(situation: Situation, sound: dict[ResultKind, Result], kind: ResultKind, defect: Defect) -> str:
    """What is said of the result when `defect` was planted into the object of one kind."""
    broken = dcmread(BytesIO(to_bytes(sound[kind].dataset)))
    defect(broken)
    results = [Result(k, broken if k == kind else result.dataset) for k, result in sound.items()]
    with pytest.raises(ResultRejected) as caught:
        verify_results(results, situation.lesion_map, situation.measurements, situation.context)
    assert "Test^" not in str(caught.value)
    return str(caught.value)


def test_a_result_without_its_segmentation_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result]
) -> None:
    reports = [result for kind, result in sound.items() if kind != "seg"]
    with pytest.raises(ResultRejected, match="consists of"):
        verify_results(reports, situation.lesion_map, situation.measurements, situation.context)


def test_measurements_of_another_lesion_map_are_rejected(situation: Situation) -> None:
    first, *others = situation.measurements
    assert isinstance(first.volume, Quantity)
    wrong = replace(first, volume=Quantity(2 * first.volume.value, "mm3"))
    with pytest.raises(ResultRejected, match="volume against the decoded SEG"):
        replace(situation, measurements=(wrong, *others)).encode()


def test_a_report_that_none_was_seen_must_say_so(none_seen: Situation) -> None:
    def defect(report: Dataset) -> None:
        container = below(report, QUALITATIVE_EVALUATIONS)
        container.ContentSequence = [c for c in children(container) if c.ValueType != "CODE"]

    assert "does not say that no lesion was seen" in rejection(
        none_seen, none_seen.encode(), "sr_not_seen", defect
    )


def test_a_model_of_organs_alone_must_not_say_that_no_lesion_was_seen(none_seen: Situation) -> None:
    said = list(none_seen.encode().values())
    of_organs = replace(none_seen.context, card=card(labels=(ORGAN,)))
    with pytest.raises(ResultRejected, match="speaks of lesions"):
        verify_results(said, none_seen.lesion_map, (), of_organs)


def test_a_report_that_none_was_seen_holds_no_measurements(
    none_seen: Situation, sound: dict[ResultKind, Result]
) -> None:
    def defect(report: Dataset) -> None:
        group = Dataset()
        group.ValueType, group.RelationshipType = "CONTAINER", "CONTAINS"
        group.ConceptNameCodeSequence = measurement_groups(sound["sr_measurements"].dataset)[
            0
        ].ConceptNameCodeSequence
        below(report, IMAGING_MEASUREMENTS).ContentSequence = [group]

    assert "not seen" in rejection(none_seen, none_seen.encode(), "sr_not_seen", defect)


def test_a_volume_read_the_wrong_way_round_is_rejected(tmp_path: Path) -> None:
    """The grid of the volume and the headers of its images must agree, or we placed the voxels wrongly."""
    situation = written(tmp_path)
    volume = situation.source.volume
    turned = volume.affine.copy()
    turned[:3, 2] *= -1
    source = replace(situation.source, volume=replace(volume, affine_lps=turned))
    with pytest.raises(ResultRejected, match="off the source grid"):
        replace(situation, context=replace(situation.context, source=source)).encode()


def test_sound_results_pass(situation: Situation, sound: dict[ResultKind, Result]) -> None:
    verify_results(list(sound.values()), situation.lesion_map, situation.measurements, situation.context)
    assert np.count_nonzero(situation.lesion_map.values)


def assert_says(message: str, pattern: str) -> None:
    with pytest.raises(ResultRejected, match=pattern):
        raise ResultRejected(message)
