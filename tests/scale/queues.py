"""A discrete-event simulation of studies that queue at the stations of a node."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Step:
    """One visit to a station. Nobody queues where there is no station: time just passes."""

    station: str | None
    service_s: float


@dataclass(frozen=True)
class Visit:
    """One study on its way through the node."""

    arrives_at_s: float
    steps: tuple[Step, ...]


@dataclass
class Outcome:
    """What a simulation saw."""

    capacities: Mapping[str, int]
    waits_s: dict[str, list[float]]
    """Station -> how long each visit waited for its turn."""
    busy_s: dict[str, float]
    """Station -> service of all its servers together."""
    totals_s: list[float] = field(default_factory=list)
    """Arrival to the end of the last step, of each study."""
    end_s: float = 0.0

    def utilisation(self, station: str) -> float:
        """How much of its capacity a station used, from 0 to 1, over the whole time."""
        return self.busy_s[station] / (self.capacities[station] * self.end_s)


def simulate(capacities: Mapping[str, int], visits: Iterable[Visit]) -> Outcome:
    """Run all visits (in order of arrival) to their end; each station serves first come, first served."""
    environment = simpy.Environment()
    stations = {name: simpy.Resource(environment, count) for name, count in capacities.items()}
    outcome = Outcome(capacities, {name: [] for name in stations}, dict.fromkeys(stations, 0.0))

    def travel(visit: Visit) -> Generator[Any, Any, None]:
        for step in visit.steps:
            if step.station is None:
                yield environment.timeout(step.service_s)
                continue
            asked_at = environment.now
            with stations[step.station].request() as turn:
                yield turn
                outcome.waits_s[step.station].append(environment.now - asked_at)
                outcome.busy_s[step.station] += step.service_s
                yield environment.timeout(step.service_s)
        outcome.totals_s.append(environment.now - visit.arrives_at_s)

    def arrive() -> Generator[Any, Any, None]:
        for visit in visits:
            yield environment.timeout(visit.arrives_at_s - environment.now)
            environment.process(travel(visit))

    environment.process(arrive())
    environment.run()
    outcome.end_s = float(environment.now)
    return outcome


def percentiles(values: Iterable[float]) -> npt.NDArray[np.float64]:
    """The 50th, 95th and 99th of some values; zeros of none."""
    found = np.fromiter(values, float)
    return np.percentile(found, PERCENTILES) if len(found) else np.zeros(len(PERCENTILES))
