"""Sends a small load to the real node and asks the simulation how long its jobs should have waited."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from sqlalchemy import select

from dicomnode.records.tables import AuditRow
from dicomnode.records.timing import JobTiming, timings
from dicomnode.selftest.archive import Archive
from tests.bench.machine import commit, machine, today
from tests.phantoms.chest import chest
from tests.scale.costs import Prediction
from tests.scale.measure import STUDY_TIMEOUT_S, lung_node, write_chest
from tests.scale.queues import Step, Visit, percentiles, simulate
from tests.system.node import Node, forward

SPACING_MM = (10.0, 2.0, 2.0)
QUIET = 4


@dataclass(frozen=True)
class Served:
    """One job: when it could have begun, and how long it waited and was worked on."""

    created_at: datetime
    waited_s: float
    took_s: float


def check_prediction(folder: Path, count: int, utilisation: float, seed: int, command: str) -> Prediction:
    """Studies at random times, so that one worker is busy for `utilisation` of the time."""
    volume = chest(SPACING_MM).volume
    with lung_node(folder) as (node, pacs):
        quiet = []
        for _ in range(QUIET):
            study, paths = write_chest(volume, folder / "sent")
            forward(node, pacs, paths)
            node.wait_until_delivered(study, timeout_s=STUDY_TIMEOUT_S)
            quiet.append(served(node, study))
        typical_s = statistics.median(job.took_s for job in quiet[1:])
        sent = [write_chest(volume, folder / "sent") for _ in range(count)]
        gaps_s = np.random.default_rng(seed).exponential(typical_s / utilisation, count)
        _send_all(node, pacs, sent, gaps_s.tolist())
        for study, _ in sent:
            node.wait_until_delivered(study, timeout_s=STUDY_TIMEOUT_S)
        jobs = sorted((served(node, study) for study, _ in sent), key=lambda job: job.created_at)
    return Prediction(
        command=command,
        machine=machine(),
        date=today(),
        commit=commit(),
        jobs=count,
        utilisation=_utilisation(jobs),
        real_s=_rounded([job.waited_s for job in jobs]),
        simulated_s=_rounded(_waits(jobs, [job.took_s for job in jobs])),
        from_quiet_s=_rounded(_waits(jobs, [typical_s] * count)),
    )


def served(node: Node, study: str) -> Served:
    """The one job of a study, off its trail."""
    with node.database.snapshot() as session:
        rows = session.scalars(
            select(AuditRow).where(AuditRow.study_instance_uid == study).order_by(AuditRow.id)
        ).all()
    timing = timings(rows)[-1]
    return Served(timing.created_at, _step(timing, "waiting for a worker"), _step(timing, "the whole job"))


def _step(timing: JobTiming, name: str) -> float:
    return timing.steps()[name]


def _send_all(node: Node, pacs: Archive, sent: list[tuple[str, list[Path]]], gaps_s: list[float]) -> None:
    """Each study at its time, whether or not the one before is through."""
    senders = []
    for (_, paths), gap_s in zip(sent, gaps_s, strict=True):
        time.sleep(gap_s)
        sender = threading.Thread(target=forward, args=(node, pacs, paths))
        sender.start()
        senders.append(sender)
    for sender in senders:
        sender.join()


def _utilisation(jobs: list[Served]) -> float:
    last = jobs[-1]
    over_s = (last.created_at - jobs[0].created_at).total_seconds() + last.waited_s + last.took_s
    return round(sum(job.took_s for job in jobs) / over_s, 3)


def _waits(jobs: list[Served], services_s: list[float]) -> list[float]:
    first = jobs[0].created_at
    visits = [
        Visit((job.created_at - first).total_seconds(), (Step("worker", service_s),))
        for job, service_s in zip(jobs, services_s, strict=True)
    ]
    return simulate({"worker": 1}, visits).waits_s["worker"]


def _rounded(values: list[float]) -> tuple[float, float, float]:
    median, high, highest = (round(float(value), 2) for value in percentiles(values))
    return median, high, highest
