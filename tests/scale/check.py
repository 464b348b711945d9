"""Sends a small load to the real node and asks the simulation how long its jobs should have waited."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from sqlalchemy import select

from dicomnode.records.db import utc_now
from dicomnode.records.tables import AuditRow
from dicomnode.records.timing import timings
from dicomnode.selftest.archive import Archive
from inference.volume import Volume
from tests.bench.machine import commit, machine, today
from tests.phantoms.chest import chest
from tests.scale.costs import Costs, Prediction
from tests.scale.load import Sent
from tests.scale.measure import STUDY_TIMEOUT_S, lung_node, write_chest
from tests.scale.places import BYTES_OF_A_VOXEL, ONE_MACHINE, Station
from tests.scale.queues import Outcome, Step, Visit, percentiles, simulate
from tests.system.node import Node, forward

SPACING_MM = (10.0, 2.0, 2.0)
QUIET = 4

Study = tuple[str, list[Path]]
"""Its UID and its files."""


@dataclass(frozen=True)
class Served:
    """One study and its job."""

    sent_at: datetime
    """When its sending began."""
    created_at: datetime
    waited_s: float
    took_s: float
    delivered_at: datetime

    @property
    def total_s(self) -> float:
        return (self.delivered_at - self.sent_at).total_seconds()


def check_prediction(
    folder: Path, costs: Costs, count: int, utilisation: float, seed: int, command: str
) -> Prediction:
    """Studies at random times, so that one worker is busy for `utilisation` of the time."""
    volume = chest(SPACING_MM).volume
    with lung_node(folder) as (node, pacs):
        quiet = [_one_alone(node, pacs, write_chest(volume, folder / "sent")) for _ in range(QUIET)]
        typical_s = statistics.median(job.took_s for job in quiet[1:])
        studies = [write_chest(volume, folder / "sent") for _ in range(count)]
        gaps_s = np.random.default_rng(seed).exponential(typical_s / utilisation, count)
        sent = _send_all(node, pacs, studies, gaps_s.tolist())
        jobs = [_served(node, study, at) for (study, _), at in zip(studies, sent, strict=True)]
    predicted = _predicted(jobs, volume, typical_s, costs)
    return Prediction(
        command=command,
        machine=machine(),
        date=today(),
        commit=commit(),
        jobs=count,
        utilisation=_utilisation(jobs),
        quiet_job_s=round(typical_s, 2),
        busy_job_s=round(statistics.median(job.took_s for job in jobs), 2),
        real_s=_rounded([job.waited_s for job in jobs]),
        simulated_s=_rounded(_simulated(jobs).waits_s[Station.WORKER]),
        predicted_s=_rounded(predicted.waits_s[Station.WORKER]),
        real_total_s=_rounded([job.total_s for job in jobs]),
        predicted_total_s=_rounded(predicted.totals_s),
    )


def _one_alone(node: Node, pacs: Archive, study: Study) -> Served:
    return _served(node, study[0], _send(node, pacs, study[1]))


def _send(node: Node, pacs: Archive, paths: list[Path]) -> datetime:
    began = utc_now()
    forward(node, pacs, paths)
    return began


def _send_all(node: Node, pacs: Archive, studies: list[Study], gaps_s: list[float]) -> list[datetime]:
    """Each study at its time, whether or not the one before is through."""
    with ThreadPoolExecutor(len(studies)) as senders:
        sending = []
        for (_, paths), gap_s in zip(studies, gaps_s, strict=True):
            time.sleep(gap_s)
            sending.append(senders.submit(_send, node, pacs, paths))
        return [one.result() for one in sending]


def _served(node: Node, study: str, sent_at: datetime) -> Served:
    """The one job of a study, off its trail, when it is delivered."""
    node.wait_until_delivered(study, timeout_s=STUDY_TIMEOUT_S)
    with node.database.snapshot() as session:
        rows = session.scalars(
            select(AuditRow).where(AuditRow.study_instance_uid == study).order_by(AuditRow.id)
        ).all()
    timing = timings(rows)[-1]
    assert timing.delivered_at
    steps = timing.steps()
    return Served(
        sent_at, timing.created_at, steps["waiting for a worker"], steps["the whole job"], timing.delivered_at
    )


def _utilisation(jobs: list[Served]) -> float:
    last = max(jobs, key=lambda job: job.created_at)
    over_s = (last.created_at - min(job.created_at for job in jobs)).total_seconds()
    return round(sum(job.took_s for job in jobs) / (over_s + last.waited_s + last.took_s), 3)


def _simulated(jobs: list[Served]) -> Outcome:
    """The queue for the worker alone."""
    first, *_ = ordered = sorted(jobs, key=lambda job: job.created_at)
    return simulate(
        {Station.WORKER: 1},
        [
            Visit((job.created_at - first.created_at).total_seconds(), (Step(Station.WORKER, job.took_s),))
            for job in ordered
        ],
    )


def _predicted(jobs: list[Served], volume: Volume, job_s: float, costs: Costs) -> Outcome:
    """All stations of one machine, from the moments of sending on."""
    images, size_bytes = len(volume.voxels), volume.voxels.size * BYTES_OF_A_VOXEL
    first, *_ = ordered = sorted(jobs, key=lambda job: job.sent_at)
    visits = []
    for job in ordered:
        at_s = (job.sent_at - first.sent_at).total_seconds()
        sent = Sent(at_s, "CT", images, float(size_bytes), images)
        visits.append(Visit(at_s, ONE_MACHINE.steps(sent, costs, job_s)))
    return simulate({station.value: 1 for station in ONE_MACHINE.servers}, visits)


def _rounded(values: list[float]) -> tuple[float, float, float]:
    median, high, highest = (round(float(value), 2) for value in percentiles(values))
    return median, high, highest
