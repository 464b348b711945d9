"""One hospital, twenty, a country: what each asks of a node, and the node that is large enough for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from dicomnode.records.audit import Stage
from tests.scale.costs import MEGABYTE, Costs
from tests.scale.load import HOUR_S, Sent
from tests.scale.queues import Outcome, Step, Visit, simulate

BYTES_OF_A_VOXEL = 2
EVENTS_WITHOUT_JOB = 2
"""A study that goes to no model is completed and routed."""
FILL = 0.7
"""How busy a station may be in the busiest hour; beyond, queues grow fast."""
GPU_S = 3.0
"""ASSUMED, not measured: the network of one job on one data-centre GPU."""


class Station(StrEnum):
    """Where studies queue, in the order of their path."""

    LINE = "line"
    RECEIVER = "receiver"
    DATABASE = "database"
    WORKER = "worker"
    SENDER = "sender"


@dataclass(frozen=True)
class Place:
    """Who sends, and for how many days it is simulated."""

    name: str
    hospitals: int
    studies_per_year: float
    days: int


PLACES = (
    Place("one hospital", 1, 1e5, 14),
    Place("20 hospitals", 20, 2e6, 7),
    Place("a country", 100, 1e7, 2),
)


@dataclass(frozen=True)
class Layout:
    """How many servers each station has, and what changes the service itself."""

    servers: dict[Station, int]
    line_gbit: float = 1.0
    """Of one line; more of them are as many nodes, or as many network cards."""
    gpu: bool = True

    def steps(self, sent: Sent, costs: Costs, job_s: float | None = None) -> tuple[Step, ...]:
        """The path of one study: one step after the other, also those that really overlap.

        `job_s` is how long its job takes, where that is known better than by the costs.
        """
        image_mb = sent.size_bytes / sent.images / MEGABYTE
        events = costs.measured.job_transactions if sent.routed_images else EVENTS_WITHOUT_JOB
        path = {
            Station.LINE: sent.size_bytes * 8 / (self.line_gbit * 1e9),
            Station.RECEIVER: sent.images * costs.receive_s.of(image_mb),
            Station.DATABASE: sent.images * costs.measured.record_s + events * costs.transaction_s,
        }
        steps = [Step(station, service_s) for station, service_s in path.items()]
        if sent.routed_images:
            steps += [
                Step(None, costs.completion_s),
                Step(Station.WORKER, job_s or self.job_s(sent, costs)),
                Step(Station.SENDER, costs.delivery_s),
            ]
        return tuple(steps)

    def job_s(self, sent: Sent, costs: Costs) -> float:
        """What a worker does for the series: stages on the CPU, and the network on the GPU if it has one."""
        megavoxels = sent.routed_images * sent.size_bytes / sent.images / BYTES_OF_A_VOXEL / 1e6
        stages = {name: line.of(megavoxels) for name, line in costs.job_s.items()}
        if self.gpu:
            stages[Stage.SEGMENT] = GPU_S
        return sum(stages.values())


ONE_MACHINE = Layout(dict.fromkeys(Station, 1))


def busiest_hour(studies: Sequence[Sent], layout: Layout, costs: Costs) -> dict[Station, float]:
    """How many servers of each station would be busy all the time in the hour that asks most of it."""
    hours = int(max(sent.at_s for sent in studies) // HOUR_S) + 1
    asked_s = {station: np.zeros(hours) for station in Station}
    for sent in studies:
        for step in layout.steps(sent, costs):
            if step.station is not None:
                asked_s[Station(step.station)][int(sent.at_s // HOUR_S)] += step.service_s
    return {station: float(values.max() / HOUR_S) for station, values in asked_s.items()}


def large_enough(place: Place, layout: Layout, demand: dict[Station, float]) -> Layout:
    """`layout` with servers enough to be filled to `FILL` at most; each hospital has its own archive."""
    servers = {station: max(1, math.ceil(asked / FILL)) for station, asked in demand.items()}
    servers[Station.SENDER] = max(servers[Station.SENDER], place.hospitals)
    return replace(layout, servers=servers)


def run(studies: Sequence[Sent], layout: Layout, costs: Costs) -> Outcome:
    """Send all studies through a layout."""
    capacities = {station.value: count for station, count in layout.servers.items()}
    return simulate(capacities, (Visit(sent.at_s, layout.steps(sent, costs)) for sent in studies))


def with_workers(layout: Layout, count: int) -> Layout:
    """The same with another number of workers."""
    return replace(layout, servers={**layout.servers, Station.WORKER: count})
