"""Metrics for Prometheus, read from the database at every scrape; nothing is kept in other processes.

Labels are states, names from the configuration and kinds of events: never patient data.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicomnode.observe.figures import Figures, Queue, read_figures
from dicomnode.observe.machine import free_bytes, gpu_memory
from dicomnode.observe.syslog import Lag, lags
from dicomnode.observe.tally import Histogram, Tally
from dicomnode.observe.trail import latest_check
from dicomnode.observe.troubles import Kind, open_alerts
from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import BreakerState
from dicomnode.records.tables import InstanceRow
from dicomnode.settings.node import Settings

PACKAGE = "pacs-lesion-node"


class NodeCollector(Collector):
    """Everything that Prometheus sees of one node."""

    def __init__(self, settings: Settings, database: Database, configuration_sha256: str) -> None:
        self._settings = settings
        self._database = database
        self._configuration_sha256 = configuration_sha256
        self._lock = threading.Lock()
        with database.snapshot() as session:
            self._tally = Tally(session)

    def collect(self) -> Iterator[Metric]:
        """One scrape: one snapshot of the database, then the machine."""
        with self._lock, self._database.snapshot() as session:
            self._tally.catch_up(session)
            figures = read_figures(session, self._destinations())
            yield from self._build()
            yield from _states(figures)
            yield from _ages(figures)
            yield from _deliveries(figures)
            yield from _stored(session)
            yield from _tallied(self._tally)
            yield _alerts(session)
            yield from _trail(session)
            yield from _syslog(lags(session, self._settings.audit.syslog))
        yield from self._disk()
        yield from _gpus()

    def _destinations(self) -> frozenset[str]:
        return frozenset(name for route in self._settings.route for name in route.destinations)

    def _build(self) -> Iterator[Metric]:
        about = {"version": version(PACKAGE), "configuration_sha256": self._configuration_sha256}
        yield InfoMetricFamily("dicomnode_build", "Version and configuration that are running", about)

    def _disk(self) -> Iterator[Metric]:
        free, wanted = free_bytes(self._settings.spool), self._settings.listener.minimum_free_gb * 1e9
        yield GaugeMetricFamily("dicomnode_disk_free_bytes", "Free space on the disk of the spool", free)
        yield GaugeMetricFamily(
            "dicomnode_disk_minimum_free_bytes", "Below this much free space nothing is taken", wanted
        )


def registry_of(collector: Collector) -> CollectorRegistry:
    """A registry with this node alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """The metrics as text that Prometheus reads."""
    return generate_latest(registry)


def _states(figures: Figures) -> Iterator[Metric]:
    for name, counts in (("studies", figures.studies), ("jobs", figures.jobs)):
        family = GaugeMetricFamily(f"dicomnode_{name}", f"{name.title()} in each state", labels=["state"])
        for state, count in counts.items():
            family.add_metric([state.value], count)
        yield family


def _ages(figures: Figures) -> Iterator[Metric]:
    now = utc_now()
    ages = GaugeMetricFamily(
        "dicomnode_oldest_seconds", "How long the oldest of each queue has waited", labels=["queue"]
    )
    for queue in Queue:
        ages.add_metric([queue.value], figures.age_s(queue, now))
    yield ages


def _deliveries(figures: Figures) -> Iterator[Metric]:
    counts = GaugeMetricFamily(
        "dicomnode_deliveries", "Deliveries in each state", labels=["destination", "state"]
    )
    last = GaugeMetricFamily(
        "dicomnode_destination_last_success_timestamp_seconds",
        "When a result was last accepted",
        labels=["destination"],
    )
    attempts = GaugeMetricFamily(
        "dicomnode_destination_attempts",
        "Most attempts that a waiting delivery has behind it",
        labels=["destination"],
    )
    breakers = GaugeMetricFamily(
        "dicomnode_destination_breaker",
        "1 for the state that the circuit breaker is in, else 0",
        labels=["destination", "state"],
    )
    for name, destination in figures.destinations.items():
        for state, count in destination.states.items():
            counts.add_metric([name, state.value], count)
        if destination.last_success:
            last.add_metric([name], destination.last_success.timestamp())
        attempts.add_metric([name], destination.attempts)
        for breaker in BreakerState:
            breakers.add_metric([name, breaker.value], destination.breaker is breaker)
    up = GaugeMetricFamily(
        "dicomnode_peer_up", "1 when the peer answered the last C-ECHO, else 0", labels=["peer"]
    )
    for peer, is_up in figures.peers_up.items():
        up.add_metric([peer], float(is_up))
    yield from (counts, last, attempts, breakers, up)


def _stored(session: Session) -> Iterator[Metric]:
    newest = session.scalar(select(func.max(InstanceRow.id))) or 0
    yield CounterMetricFamily("dicomnode_instances", "Instances ever recorded", newest)


def _tallied(tally: Tally) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "dicomnode_events", "Events of the audit trail since this process started", labels=["event"]
    )
    for event, count in tally.events.items():
        events.add_metric([event], count)
    yield events
    stages = HistogramMetricFamily("dicomnode_stage_seconds", "Duration of each stage", labels=["stage"])
    for stage, histogram in tally.stages.items():
        _add(stages, [stage], histogram)
    yield stages
    turnaround = HistogramMetricFamily(
        "dicomnode_turnaround_seconds", "From the last image of a study to a result at its destination"
    )
    _add(turnaround, [], tally.turnaround)
    yield turnaround


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.buckets(), histogram.sum_s)


def _alerts(session: Session) -> Metric:
    family = GaugeMetricFamily("dicomnode_alerts", "Alerts of the node that are open", labels=["kind"])
    kinds = [alert.kind for alert in open_alerts(session)]
    for kind in Kind:
        family.add_metric([kind.value], kinds.count(kind.value))
    return family


def _trail(session: Session) -> Iterator[Metric]:
    verified = GaugeMetricFamily(
        "dicomnode_audit_verified_timestamp_seconds", "When the audit trail was last checked", labels=[]
    )
    faults = GaugeMetricFamily("dicomnode_audit_faults", "Faults that this check found", labels=[])
    latest = latest_check(session)
    if latest is not None:
        verified.add_metric([], latest.at.timestamp())
        faults.add_metric([], latest.detail["fault_count"])
    yield from (verified, faults)


def _syslog(lags: list[Lag]) -> Iterator[Metric]:
    events = GaugeMetricFamily(
        "dicomnode_syslog_lag_events", "Events that a syslog receiver has not had yet", labels=["target"]
    )
    oldest = GaugeMetricFamily(
        "dicomnode_syslog_lag_seconds", "Age of the oldest event that it has not had", labels=["target"]
    )
    for lag in lags:
        events.add_metric([lag.target], lag.events)
        oldest.add_metric([lag.target], lag.oldest_s)
    yield from (events, oldest)


def _gpus() -> Iterator[Metric]:
    used = GaugeMetricFamily("dicomnode_gpu_memory_used_bytes", "GPU memory in use", labels=["gpu"])
    total = GaugeMetricFamily("dicomnode_gpu_memory_bytes", "GPU memory", labels=["gpu"])
    for gpu in gpu_memory():
        used.add_metric([gpu.name], gpu.used_bytes)
        total.add_metric([gpu.name], gpu.total_bytes)
    yield from (used, total)
