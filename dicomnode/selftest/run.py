"""A phantom with known lesions through the whole path, compared voxel for voxel when it comes back.

What is proved: receiving, completing, routing, reading, segmenting on the configured device, measuring,
encoding, checking, delivering and the audit, of this installation on this machine. The model is a threshold
whose answer is known exactly. What is not: that any real model is good, or that the PACS shows its results.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from sqlalchemy import select

from dicomnode.checks.finding import Finding, Verdict
from dicomnode.deliver.answers import Fate
from dicomnode.encode.decode import read_frames
from dicomnode.errors import NodeError, PermanentError, TransientError
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database
from dicomnode.records.states import DeliveryState, JobState
from dicomnode.records.tables import DeliveryRow, JobRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.temporary import as_peer, free_port, own_database, running_node
from dicomnode.selftest.volumes import Phantom, phantom
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import Settings
from dicomnode.study import read_instance

RESULT_TIMEOUT_S = 300.0
POSITION_TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class _Sent:
    """The phantom, and which slice of it each image is."""

    truth: Phantom
    paths: list[Path]
    slice_of: dict[str, int]
    """Slice index by SOP Instance UID."""


def self_test(device: str) -> Iterator[Finding]:
    """Run it; one finding for each step, and none after the first that is wrong."""
    with TemporaryDirectory(prefix="dicomnode-selftest-") as folder, own_database():
        try:
            yield from _steps(Path(folder), device)
        except (NodeError, OSError) as error:
            yield Finding("self-test", Verdict.WRONG, str(error))


def _steps(folder: Path, device: str) -> Iterator[Finding]:
    write_bundle(folder / "models" / "threshold")
    sent = _write_phantom(folder / "phantom")
    archive = Archive("SELFTESTPACS", free_port(), folder / "archive")
    archive.start()
    archive.add(sent.paths)
    try:
        with running_node(folder, archive, device) as settings:
            yield Finding("self-test", Verdict.OK, f"a temporary node runs on {device}")
            started = time.monotonic()
            _forward(archive, settings, len(sent.paths))
            yield Finding("self-test", Verdict.OK, f"{len(sent.paths)} images received")
            _wait_until_delivered(settings)
            took_s = time.monotonic() - started
            yield Finding("self-test", Verdict.OK, f"results are back after {took_s:.1f} s")
            yield _compare(sent, [dcmread(path) for path in archive.results()])
            yield _audit(settings)
    finally:
        archive.stop()


def _write_phantom(folder: Path) -> _Sent:
    truth = phantom(spacing_mm=(3.0, 1.5, 1.5))
    identity = SeriesIdentity(patient_id="SELFTEST-1", patient_name="Self^Test", series_description="Shapes")
    paths = write_series(truth.volume, folder, identity)
    return _Sent(truth, paths, {read_instance(p).sop_instance_uid: i for i, p in enumerate(paths)})


def _forward(archive: Archive, settings: Settings, count: int) -> None:
    responses = archive.forward(as_peer(settings))
    accepted = sum(response.fate is Fate.ACCEPTED for response in responses)
    if accepted != count:
        raise PermanentError(f"only {accepted} of {count} images were accepted: {responses[-1].status}")


def _wait_until_delivered(settings: Settings) -> None:
    database = Database(settings.database_url)
    deadline = time.monotonic() + RESULT_TIMEOUT_S
    job: JobRow | None = None
    while time.monotonic() < deadline:
        with database.snapshot() as session:
            job = session.scalar(select(JobRow))
            states = set(session.scalars(select(DeliveryRow.state)))
        if job is not None and job.state == JobState.FAILED:
            raise PermanentError(f"the job failed: {job.error}")
        if states == {DeliveryState.DELIVERED.value}:
            return
        time.sleep(0.1)
    state = f"the job is {job.state}" if job else "no job was made"
    raise TransientError(f"no results within {RESULT_TIMEOUT_S:.0f} s: {state}")


def _compare(sent: _Sent, objects: list[Dataset]) -> Finding:
    """Every voxel of the segmentation against the truth, and the place of every frame."""
    segmentations = [dataset for dataset in objects if dataset.Modality == "SEG"]
    reports = [dataset for dataset in objects if dataset.Modality == "SR"]
    if len(segmentations) != 1 or len(reports) != 2:
        return Finding(
            "self-test",
            Verdict.WRONG,
            f"{len(segmentations)} segmentations and {len(reports)} reports came back, not 1 and 2",
        )
    numbers = _decode(sent, segmentations[0])
    truth = sent.truth.lesion_map.values
    wrong = int(np.count_nonzero(numbers != truth))
    if wrong:
        return Finding("self-test", Verdict.WRONG, f"{wrong} of {truth.size} voxels differ from the phantom")
    return Finding(
        "self-test",
        Verdict.OK,
        f"all {truth.size} voxels and {len(sent.truth.shapes)} lesions are those of the phantom; "
        f"{len(reports)} reports",
    )


def _decode(sent: _Sent, seg: Dataset) -> npt.NDArray[np.uint16]:
    """Lesion numbers on the grid of the phantom. Raises PermanentError for a frame in a wrong place."""
    numbers = np.zeros(sent.truth.volume.shape, np.uint16)
    for frame in read_frames(seg):
        index = sent.slice_of.get(frame.source_sop_instance_uid)
        if index is None:
            raise PermanentError("the segmentation refers to an image that was never sent")
        place = sent.truth.volume.to_lps_mm((index, 0, 0))
        if frame.position_mm is None or np.abs(frame.position_mm - place).max() > POSITION_TOLERANCE_MM:
            raise PermanentError(f"frame {frame.number} of the segmentation is not where its image is")
        numbers[index][frame.mask] = frame.segment_number
    return numbers


def _audit(settings: Settings) -> Finding:
    with Database(settings.database_url).snapshot() as session:
        check = verify_chain(session)
    if check.faults:
        return Finding("self-test", Verdict.WRONG, f"the audit trail is broken at event {check.broken_at}")
    return Finding("self-test", Verdict.OK, f"the audit trail holds: {check.event_count} events")
