"""The same input and model give the same bytes; what differs gets another identity."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset

from dicomnode.encode.recognise import is_own_result
from dicomnode.encode.uids import derived_uid, tracking_uid
from dicomnode.encode.writing import to_bytes
from tests.dicomnode.encode.situations import SERIES_UID, Situation, written


@pytest.fixture(scope="module")
def situation(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return written(tmp_path_factory.mktemp("axial"))


class TestRepetition:
    def test_a_repeated_run_makes_the_same_bytes(self, situation: Situation) -> None:
        first, second = situation.encode(), situation.encode()
        assert list(first) == ["seg", "sr_measurements", "sr_volumes"]
        for kind, result in first.items():
            assert to_bytes(result.dataset) == to_bytes(second[kind].dataset)

    def test_another_process_makes_the_same_bytes(self, situation: Situation) -> None:
        folder = situation.source.frames[0].instance.path.parent
        script = (
            "import hashlib, pathlib, sys\n"
            "from dicomnode.encode.writing import to_bytes\n"
            "from tests.dicomnode.encode.situations import seen\n"
            "from tests.phantoms import phantom, read_series\n"
            "truth = phantom('axial', (6.0, 2.0, 3.0))\n"
            "made = seen(read_series(pathlib.Path(sys.argv[1])), truth).encode()\n"
            "print(hashlib.sha256(b''.join(to_bytes(r.dataset) for r in made.values())).hexdigest())\n"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", script, str(folder)],
                capture_output=True,
                text=True,
                check=True,
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ".", "TZ": zone},
            ).stdout
            for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
        ]
        assert runs[0] == runs[1]

    def test_a_superseding_result_joins_the_series_as_another_instance(self, situation: Situation) -> None:
        source = situation.source
        fewer = replace(source.series, instances=source.series.instances[1:])
        late = replace(situation.context, source=replace(source, series=fewer), instance_number=2)
        first, second = situation.encode(), replace(situation, context=late).encode()
        for kind, result in first.items():
            old, new = result.dataset, second[kind].dataset
            assert old.SeriesInstanceUID == new.SeriesInstanceUID
            assert old.SOPInstanceUID != new.SOPInstanceUID
            assert new.InstanceNumber == 2

    def test_another_model_makes_other_objects(self, situation: Situation) -> None:
        first, second = situation.encode(), situation.encode(model_digest="d00d" + "0" * 60)
        for kind, result in first.items():
            assert result.dataset.SOPInstanceUID != second[kind].dataset.SOPInstanceUID

    def test_each_kind_has_a_series_of_its_own(self, situation: Situation) -> None:
        made = [result.dataset for result in situation.encode().values()]
        assert len({d.SeriesInstanceUID for d in made} | {SERIES_UID}) == len(made) + 1
        assert len({d.SeriesNumber for d in made}) == len(made)


class TestUids:
    def test_derived_uids_are_valid_and_at_most_64_characters(self) -> None:
        for number in range(200):
            uid = derived_uid("role", str(number))
            assert uid.startswith("2.25.")
            assert uid[5:].isdigit()
            assert not uid[5:].startswith("0")
            assert len(uid) <= 64

    def test_parts_are_kept_apart(self) -> None:
        assert derived_uid("ab", "c") != derived_uid("a", "bc")

    def test_every_lesion_is_tracked_by_its_own_uid(self, situation: Situation) -> None:
        assert len({tracking_uid(situation.context, number) for number in range(1, 50)}) == 49


class TestLoopGuard:
    def test_our_own_results_are_recognised(self, situation: Situation) -> None:
        assert all(is_own_result(result.dataset) for result in situation.encode().values())

    def test_they_are_recognised_after_a_pacs_rewrote_the_manufacturer(self, situation: Situation) -> None:
        made = situation.encode()["seg"].dataset
        made.Manufacturer, made.ManufacturerModelName = "Big PACS", "Coercer"
        assert is_own_result(made)

    def test_images_and_results_of_others_are_not_ours(self, situation: Situation) -> None:
        assert not is_own_result(situation.source.series.header)
        other = Dataset()
        other.Manufacturer, other.ManufacturerModelName = "Somebody else", "Pacs Lesion Node"
        assert not is_own_result(other)
        assert not is_own_result(Dataset())

    def test_recognising_needs_neither_highdicom_nor_torch(self) -> None:
        script = (
            "import sys, dicomnode.encode.recognise\n"
            "assert not {'highdicom', 'torch', 'monai'} & set(sys.modules), 'loaded'"
        )
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path.cwd())
