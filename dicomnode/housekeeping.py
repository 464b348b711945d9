"""The clockwork: closes studies, routes them, recovers what was lost, pushes the outbox."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from dicomnode.assemble.assembly import Assembly
from dicomnode.assemble.ticks import assembly_ticks, count_askers
from dicomnode.deliver.commitment import Commitment
from dicomnode.deliver.commitment_pruning import prune_commitments
from dicomnode.deliver.commitment_reports import CommitmentReports
from dicomnode.deliver.delivery import Delivery
from dicomnode.models.comparing import Comparing
from dicomnode.observe.alerts import Alerts
from dicomnode.observe.peers import check_peer, forget_others, watched_peers
from dicomnode.observe.trail import verify_daily
from dicomnode.receive.recorder import Recorder
from dicomnode.records.anchoring import anchor_of_the_day
from dicomnode.records.anchors import private_key
from dicomnode.records.audit import Audit
from dicomnode.records.clock import pull_back
from dicomnode.records.db import Database, utc_now
from dicomnode.records.wake import Topic
from dicomnode.retention import Retention
from dicomnode.route.dispatch import Dispatch
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from dicomnode.sweep import Sweep
from dicomnode.syslog.feed import Feed
from dicomnode.work.losses import Recovery
from inference.registry import Registry

TICK_S = 0.25
RECOVERY_S = 5.0
TAKE_OVER_S = 5.0
"""How often it looks for what receivers acknowledged that are gone; one that starts again looks by itself."""
WATCH_S = 15.0
ECHO_S = 60.0
COMMITMENT_S = 0.5
COMPARING_S = 2.0
ANCHOR_S = 60.0
VERIFY_S = 3600.0
RETENTION_S = 60.0
SYSLOG_S = 1.0

log = structlog.get_logger()


class Housekeeping:
    """Runs the recurring work of the node, each kind on its own thread so that none waits for another."""

    def __init__(self, settings: Settings, database: Database, registry: Registry) -> None:
        self._assembly = Assembly(settings, database, taking_since=utc_now())
        self._assembling = assembly_ticks(settings, database, self._assembly)
        self._counting = count_askers(settings, self._assembly, self._close_and_route)
        self._database = database
        self._closing = threading.Lock()
        self._dispatch = Dispatch(settings, database, registry, Audit("routing"))
        self._delivery = Delivery(settings, database)
        self._commitment = Commitment(settings, database)
        self._reports = CommitmentReports(settings, database)
        self._recovery = Recovery(database, Audit("housekeeping"), settings.worker)
        self._pull_back = partial(pull_back, settings, database, Audit("housekeeping"))
        self._alerts = Alerts(settings, database)
        self._verify = partial(verify_daily, settings, database, Audit("housekeeping"))
        self._forget_peers = partial(forget_others, settings, database)
        self._echoes = {
            peer.name: partial(check_peer, settings, database, peer) for peer in watched_peers(settings)
        }
        self._comparing = Comparing(database, Audit("comparing"))
        self._retention = Retention(settings.retention, database, Audit("housekeeping"))
        self._prune_commitments = partial(
            prune_commitments, database, Audit("housekeeping"), settings.retention.commitments_days
        )
        self._recorder = Recorder(Spool(settings.spool), database, Audit("receiver"))
        self._sweep = Sweep(Spool(settings.spool), database)
        self._peers = settings.peer
        signing_key = settings.audit.signing_key
        self._anchor = partial(
            anchor_of_the_day,
            database,
            Audit("housekeeping"),
            settings.anchors,
            private_key(signing_key) if signing_key else None,
        )

        self._feeds = {target.name: Feed(settings, target, database) for target in settings.audit.syslog}

    def run(self, stopping: threading.Event) -> None:
        """Tick until `stopping` is set."""
        self._delivery.release_leases()
        self._forget_peers()
        ticks = self.ticks()
        scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(len(ticks))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        for name, work, interval_s in ticks:
            scheduler.add_job(_guarded(name, work), "interval", seconds=interval_s, id=name)
        scheduler.start()
        woken = [
            threading.Thread(target=self._on_signal, args=(topic, _guarded(name, work), stopping), name=name)
            for name, work, topic in self.signalled()
        ]
        for thread in woken:
            thread.start()
        log.info("housekeeping_started")
        stopping.wait()
        for thread in woken:
            thread.join()
        scheduler.shutdown(wait=True)

    def _on_signal(self, topic: Topic, work: Callable[[], None], stopping: threading.Event) -> None:
        """Work after each signal, and every TICK_S; never takes more than half of its thread's time."""
        with self._database.wake.listen(topic) as ear:
            while not stopping.is_set():
                started = time.monotonic()
                work()
                took_s = time.monotonic() - started
                if ear.wait(TICK_S):
                    stopping.wait(min(took_s, TICK_S))

    def signalled(self) -> list[tuple[str, Callable[[], object], Topic]]:
        """What is done as soon as there is something to do: a name of its own, the work, and the signal."""
        return [
            ("close_and_route", self._close_and_route, Topic.STUDIES),
            *((name, ask, Topic.RELEASES) for name, ask in self._counting),
            *(
                (f"push {peer.name}", partial(self._delivery.push, peer), Topic.DELIVERIES)
                for peer in self._peers
            ),
            *(
                (f"ask {peer.name}", partial(self._commitment.ask, peer), Topic.COMMITMENTS)
                for peer in self._peers
            ),
        ]

    def ticks(self) -> list[tuple[str, Callable[[], object], float]]:
        """What recurs: a name of its own, the work, and how often in seconds."""
        senders = [peer for peer in self._peers if peer.may_send]
        return [
            *self._assembling,
            ("recover", self._recover_all, RECOVERY_S),
            ("take over", self._recorder.recover, TAKE_OVER_S),
            ("purge", self._retention.purge_due, RETENTION_S),
            ("prune commitments", self._prune_commitments, RETENTION_S),
            ("sweep", self._sweep.sweep_when_due, RETENTION_S),
            ("anchor", self._anchor, ANCHOR_S),
            ("watch", self._alerts.tick, WATCH_S),
            ("verify", self._verify, VERIFY_S),
            *((f"echo {name}", check, ECHO_S) for name, check in self._echoes.items()),
            ("compare", self._comparing.compare_due, COMPARING_S),
            *((f"syslog {name}", feed.tick, SYSLOG_S) for name, feed in self._feeds.items()),
            *(
                (f"report {peer.name}", partial(self._reports.send_due, peer), COMMITMENT_S)
                for peer in senders
            ),
        ]

    def _close_and_route(self) -> None:
        """Does nothing while another thread is at it; that one, or the next tick, sees the same."""
        if self._closing.acquire(blocking=False):
            try:
                self._assembly.close_complete_studies()
                self._dispatch.route_complete_studies()
            finally:
                self._closing.release()

    def _recover_all(self) -> None:
        self._recovery.tick()
        self._pull_back()
        self._delivery.recover_lost()
        self._delivery.bury_unknown()


def _guarded(name: str, work: Callable[[], object]) -> Callable[[], None]:
    """A failing tick is logged and comes again; it never takes the others down."""

    def tick() -> None:
        try:
            work()
        except Exception:
            log.exception("tick_failed", tick=name)

    return tick
