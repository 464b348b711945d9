"""The same instance in other clothes, other contents under one UID, and a study sent ten times.

Encodings are made by pydicom and its codecs, decoded by the same: a fault that both share is not noticed.
"""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from sqlalchemy import select

from dicomnode.receive.intake import Intake, Outcome
from dicomnode.receive.judge import Judge
from dicomnode.records.db import Database
from dicomnode.records.instances import stored_instances
from dicomnode.records.tables import InstanceRow, StudyRow
from dicomnode.spool import Spool
from tests.dicomnode.parts import arrival, events, image, kinds

pytestmark = pytest.mark.both_databases

STUDY = "1.2.3.4"
GREY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096


@pytest.fixture
def intake(intake: Intake) -> Iterator[Intake]:
    yield intake
    intake.close()


def ct() -> FileDataset:
    """An image with all that encodings treat differently: sequences, private attributes, real samples."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99T", "Thorax, ergänzt"
    found = image(Rows=64, Columns=64, PixelData=GREY.tobytes(), ProcedureCodeSequence=[code])
    found.SpecificCharacterSet = "ISO_IR 100"
    found.WindowCenter = "40.50"
    block = found.private_block(0x0029, "VENDOR", create=True)
    block.add_new(0x10, "LO", "private word ")
    block.add_new(0x11, "US", 7)
    return found


def in_syntax(dataset: FileDataset, syntax: UID) -> FileDataset:
    found = copy.deepcopy(dataset)
    if syntax.is_encapsulated:
        found.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        found.PixelData = GREY.astype(">u2").tobytes()
    found.file_meta.TransferSyntaxUID = syntax
    return found


def with_undefined_lengths(dataset: FileDataset) -> FileDataset:
    found = copy.deepcopy(dataset)
    found["ProcedureCodeSequence"].is_undefined_length = True
    found.ProcedureCodeSequence[0].is_undefined_length_sequence_item = True
    return found


def rows(database: Database) -> list[InstanceRow]:
    with database.snapshot() as session:
        return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


def input_of(database: Database) -> list[int]:
    with database.snapshot() as session:
        return [row.id for row in stored_instances(session, STUDY)]


def close(database: Database) -> None:
    with database.transaction() as session:
        session.get_one(StudyRow, STUDY).state = "routed"


def state(database: Database) -> tuple[str, int]:
    with database.snapshot() as session:
        study = session.get_one(StudyRow, STUDY)
        return study.state, study.generation


def test_the_same_image_in_any_lossless_encoding_is_no_alteration(intake: Intake, database: Database) -> None:
    sent = ct()
    assert intake.take(arrival(sent)) is Outcome.NEW
    close(database)
    others = [
        in_syntax(sent, syntax)
        for syntax in (
            ImplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
            RLELossless,
            JPEG2000Lossless,
            JPEGLSLossless,
        )
    ]
    for other in [*others, with_undefined_lengths(sent)]:
        name = other.file_meta.TransferSyntaxUID.name
        assert intake.take(arrival(other)) is Outcome.RECODED, name
        assert intake.take(arrival(other)) is Outcome.REPEATED, name
    assert state(database) == ("routed", 1), "no new work"
    assert input_of(database) == [1], "a job uses what came first"
    assert {(row.version, row.same_as) for row in rows(database)} == {(1, None), (1, 1)}
    assert len({row.path for row in rows(database)}) == 8, "all encodings are kept"
    first = rows(database)[0].sha256
    told = [detail for _, detail in events(database, "instance_recoded")]
    assert [detail["same_as_sha256"] for detail in told] == [first] * 7
    assert first not in {detail["sha256"] for detail in told}


def test_a_colour_image_in_another_colour_space_is_the_same_image(intake: Intake, database: Database) -> None:
    sent = dcmread(str(get_testdata_file("SC_rgb.dcm")))
    other = copy.deepcopy(sent)
    other.PhotometricInterpretation = "YBR_RCT"
    other.compress(JPEG2000Lossless, generate_instance_uid=False)
    assert other.PhotometricInterpretation != sent.PhotometricInterpretation
    assert intake.take(arrival(sent)) is Outcome.NEW
    assert intake.take(arrival(other)) is Outcome.RECODED


def one_sample(dataset: FileDataset) -> None:
    dataset.PixelData = b"\x01" + dataset.PixelData[1:]


def one_word(dataset: FileDataset) -> None:
    dataset.ProcedureCodeSequence[0].CodeMeaning = "Abdomen"


def one_private_number(dataset: FileDataset) -> None:
    dataset[0x0029, 0x1011].value = 8


def no_pixels(dataset: FileDataset) -> None:
    del dataset.PixelData


@pytest.mark.parametrize("alter", [one_sample, one_word, one_private_number, no_pixels])
def test_the_smallest_alteration_in_another_encoding_is_seen(
    intake: Intake, database: Database, alter: Callable[[FileDataset], None]
) -> None:
    sent = ct()
    intake.take(arrival(sent))
    close(database)
    altered = copy.deepcopy(sent)
    alter(altered)
    syntax = RLELossless if "PixelData" in altered else ImplicitVRLittleEndian
    assert intake.take(arrival(in_syntax(altered, syntax))) is Outcome.ALTERED
    assert state(database) == ("receiving", 2)
    assert input_of(database) == [2], "a job uses the newest version"
    assert "instance_altered" in kinds(database)


def test_a_lossy_copy_is_an_alteration(intake: Intake) -> None:
    sent = ct()
    sent.PixelData = np.random.default_rng(1).integers(0, 4096, (64, 64), np.uint16).tobytes()
    intake.take(arrival(sent))
    lossy = copy.deepcopy(sent)
    lossy.compress(JPEG2000, j2k_cr=[20], generate_instance_uid=False)
    assert intake.take(arrival(lossy)) is Outcome.ALTERED


def test_an_older_version_in_another_encoding_is_still_that_version(
    intake: Intake, database: Database
) -> None:
    first, second = ct(), ct()
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    second.SeriesDescription = "Corrected"
    for sent in (first, second):
        intake.take(arrival(sent))
    assert intake.take(arrival(in_syntax(first, RLELossless))) is Outcome.RECODED
    assert [(row.version, row.same_as) for row in rows(database)] == [(1, None), (2, None), (1, 1)]
    assert input_of(database) == [2]


def test_two_senders_with_different_versions_do_not_take_turns(intake: Intake, database: Database) -> None:
    first, second = ct(), ct()
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    second.InstitutionName = "Other"
    for sent in (first, second):
        intake.take(arrival(sent))
    close(database)
    for _ in range(5):
        assert [intake.take(arrival(sent)) for sent in (first, second)] == [Outcome.REPEATED] * 2
    assert state(database) == ("routed", 1)


def test_broken_pixel_data_under_a_known_uid_is_a_version_and_harms_nobody(intake: Intake) -> None:
    sent = ct()
    intake.take(arrival(sent))
    broken = in_syntax(sent, JPEG2000Lossless)
    broken.PixelData = broken.PixelData[:60] + bytes(len(broken.PixelData) - 60)
    assert intake.take(arrival(broken)) is Outcome.ALTERED
    assert intake.take(arrival(in_syntax(sent, JPEGLSLossless))) is Outcome.RECODED


def test_a_comparison_that_dies_or_hangs_is_given_up_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one.dcm", tmp_path / "other.dcm"
    sent = ct()
    sent.save_as(one, enforce_file_format=True)
    in_syntax(sent, RLELossless).save_as(other, enforce_file_format=True)
    judge = Judge()
    try:
        assert judge.same(one, other)
        assert judge._process is not None
        os.kill(judge._process.pid, signal.SIGKILL)
        judge._process.wait()
        assert not judge.same(one, other)
        assert judge.same(one, other)
        os.kill(judge._process.pid, signal.SIGSTOP)
        monkeypatch.setattr("dicomnode.receive.judge.COMPARISON_TIMEOUT_S", 0.2)
        assert not judge.same(one, other)
        monkeypatch.undo()
        assert judge.same(one, other)
        assert not judge.same(one, tmp_path / "gone.dcm")
    finally:
        judge.close()


def test_a_study_sent_ten_times_is_kept_once_and_written_once(
    intake: Intake, database: Database, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = Spool.write

    def count(spool: Spool, *arguments: Any) -> Any:
        written.append(arguments)
        return write(spool, *arguments)

    monkeypatch.setattr(Spool, "write", count)
    study = [arrival(image(SOPInstanceUID=generate_uid(), SOPClassUID=CTImageStorage)) for _ in range(40)]
    took_s = []
    for _ in range(10):
        started = time.monotonic()
        outcomes = {intake.take(sent) for sent in study}
        took_s.append(time.monotonic() - started)
    assert outcomes == {Outcome.REPEATED}
    assert len(rows(database)) == 40
    assert state(database) == ("receiving", 1)
    with capsys.disabled():
        print(
            f"\n40 instances: {took_s[0] * 25:.1f} ms each at first, {took_s[9] * 25:.1f} ms the tenth time"
        )
    assert len(written) == 40
