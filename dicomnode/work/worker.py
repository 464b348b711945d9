"""The worker process: lease a job, run it, translate how it ended. Its engine runs the network."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from structlog.contextvars import bound_contextvars

from dicomnode.encode.equipment import software_version
from dicomnode.errors import InputChanged, PermanentError, StaleLease, TransientError
from dicomnode.forms import all_kinds
from dicomnode.loaded import keep_what_is_loaded
from dicomnode.read.room import Room
from dicomnode.records.audit import Audit, Stage, Subject
from dicomnode.records.db import Database
from dicomnode.records.instances import stored_instances
from dicomnode.records.standing import WORKING_STATES, state_here
from dicomnode.records.tables import JobRow, ResultRow
from dicomnode.records.wake import Topic
from dicomnode.settings.node import Settings, WorkerSettings
from dicomnode.spool import HOST, Spool
from dicomnode.study import Series, read_instance
from dicomnode.work.engine import Engine, EngineLost
from dicomnode.work.jobs import JobQueue, Lease
from dicomnode.work.losses import AWAY_S, give_up, insist
from dicomnode.work.pipeline import Assignment, Findings, process_series, summarise
from dicomnode.work.result_files import remove_lost_attempts, store_results
from dicomnode.work.warm_up import warm_up
from inference.bundle import ModelBundle, ModelState
from inference.errors import BundleError, InferenceError, OutOfMemory
from inference.registry import Registry

IDLE_S = 0.2
EXIT_TIMED_OUT = 75
STDERR = 2

log = structlog.get_logger()


class Worker:
    """Works jobs off, one at a time, on one engine."""

    def __init__(self, settings: Settings, database: Database, registry: Registry, engine: Engine) -> None:
        self._settings = settings
        self._database = database
        self._registry = registry
        self._spool = Spool(settings.spool)
        self._engine = engine
        self._name = f"{engine.place} pid {os.getpid()} on {HOST}"
        self._audit = Audit(f"worker {engine.place}")
        self._queue = JobQueue(database, self._audit, settings.worker, self._name, settings.wanted)
        self._room = Room()
        self._loaded = False
        self._is_warm = False
        self._spool_works = True

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set; a job in progress is finished first."""
        log.info("worker_started", place=self._engine.place, models=self._registry.names)
        self._spool.remove_leftovers("results")
        with self._database.wake.listen(Topic.JOBS) as ear:
            while not stopping.is_set():
                try:
                    if not (self._ready() and self.work_one()):
                        ear.wait(IDLE_S)
                except OperationalError as error:
                    log.error("database_away", error=type(error).__name__)
                    stopping.wait(AWAY_S)

    def _ready(self) -> bool:
        """Whether spool and engine could begin; models are loaded before the first job: none waits."""
        self._spool_works = self._spool_works or self._spool.works()
        if not self._spool_works:
            return False
        if not self._engine.ready(self._work_waits):
            self._loaded = False
        elif not self._loaded:
            self._loaded = self._load_models()
        return self._loaded

    def _work_waits(self) -> bool:
        return self._queue.has_work(self._engine.share())

    def work_one(self) -> bool:
        """Lease and finish one job. False when there was none."""
        leased = self._queue.lease_next(self._engine.share())
        if leased is None:
            return False
        lease, job = leased
        with bound_contextvars(job_id=job.id, model=job.model), self._heartbeat(lease):
            try:
                self._attempt(lease, job)
            except StaleLease as error:
                log.warning("lease_lost", reason=str(error))
                self._clear(job, lease.fencing_token + 1)
            except SQLAlchemyError as error:  # the lease expires, and the job is recovered
                log.error("outcome_not_recorded", error=type(error).__name__)
        return True

    def _heartbeat(self, lease: Lease) -> Heartbeat:
        rules = self._settings.worker
        lose = partial(give_up, self._database, self._audit, rules, lease)
        return Heartbeat(lose, partial(self._queue.renew, lease), rules)

    def _attempt(self, lease: Lease, job: JobRow) -> None:
        """The one place where an error becomes the fate of a job. Raises StaleLease, SQLAlchemyError."""
        try:
            self._clear(job, lease.fencing_token)
            findings = self._process(lease, job)
            results = store_results(self._spool, lease, job, findings)
            told = {**summarise(findings), "software_version": software_version()}
            insist(partial(self._queue.succeed, lease, results, told))
            self._clear(job, lease.fencing_token)  # once more: it may not have been possible at the beginning
            log.info("job_succeeded", lesion_count=len(findings.measurements))
        except StaleLease:
            raise
        except EngineLost as error:
            log.error("engine_lost", reason=str(error))
            self._loaded = False
            give_up(self._database, self._audit, self._settings.worker, lease, str(error))
        except InputChanged as error:
            self._queue.supersede(lease, str(error))
        except (TransientError, OutOfMemory, OSError) as error:
            log.warning("job_retried", reason=str(error))
            if isinstance(error, OSError):  # while the spool is away each job would use up its attempts
                self._spool_works = self._spool.works()
            insist(partial(self._queue.retry_later, lease, str(error), counts=self._spool_works))
        except MemoryError:
            log.warning("job_retried", error="MemoryError")
            self._queue.retry_later(lease, "the machine has not enough memory for this series now")
        except OperationalError as error:
            log.warning("job_retried", error=type(error).__name__)
            insist(partial(self._queue.retry_later, lease, "the database was not available"))
        except (PermanentError, InferenceError) as error:
            log.warning("job_failed", reason=str(error))
            self._queue.fail(lease, str(error))
        except Exception as error:
            log.exception("job_failed_by_a_bug")
            self._queue.fail(lease, f"internal error {type(error).__name__}; the log has the details")

    def _process(self, lease: Lease, job: JobRow) -> Findings:
        bundle = self._bundle(lease, job)
        assignment = Assignment(
            series=self._series(job),
            segmenter=self._engine.segmenter(bundle, self._digests_in_use()),
            card=bundle.card,
            model_digest=job.model_digest,
            instance_number=self._instance_number(job),
            created_at=job.created_at.astimezone(),
            notes=tuple(job.notes["lines"]),
            kinds=all_kinds(self._settings.wanted, job.destinations["names"]),
            empty=self._room.empty,
            compiled=self._engine.is_compiled(bundle),
        )
        return process_series(assignment, partial(self._stage, job))

    def _bundle(self, lease: Lease, job: JobRow) -> ModelBundle:
        """The bundle that the job was made for, when its model may still work."""
        try:
            bundle = self._registry.get(job.model_digest)
        except BundleError as error:
            raise PermanentError(
                f"model {job.model} has changed since job {job.id} was made: {error} and replay the job"
            ) from error
        with self._database.snapshot() as session:
            state = state_here(session, self._settings.models, bundle)
        if state not in WORKING_STATES:
            raise PermanentError(
                f"model {job.model} {bundle.card.version} is {state}; when it may work again, replay the job"
            )
        if state is ModelState.SHADOW and not job.shadow:
            self._queue.withhold(lease)
        return bundle

    def _stage(self, job: JobRow, stage: Stage) -> AbstractContextManager[None]:
        return self._audit.stage(self._database, Subject.of_job(job), stage)

    def _series(self, job: JobRow) -> Series:
        """The instances that the job was made for; later arrivals belong to the next job."""
        with self._database.snapshot() as session:
            rows = [
                row
                for row in stored_instances(session, job.study_instance_uid)
                if row.series_instance_uid == job.series_instance_uid
            ]
        try:
            instances = [read_instance(Path(row.path), row.sha256) for row in rows]
        except InvalidDicomError as error:
            raise PermanentError(f"a stored instance cannot be read: {error}") from error
        instances.sort(key=lambda instance: instance.sop_instance_uid)
        series = Series(tuple(instances))
        if series.digest != job.input_digest:
            raise InputChanged("the series has changed since this job was made; a newer job takes over")
        return series

    def _instance_number(self, job: JobRow) -> int:
        """1 for the first result of a series and model, one more for each that supersedes it."""
        with self._database.snapshot() as session:
            earlier = session.scalar(
                select(func.count(func.distinct(JobRow.id)))
                .join(ResultRow, ResultRow.job_id == JobRow.id)
                .where(
                    JobRow.series_instance_uid == job.series_instance_uid,
                    JobRow.model == job.model,
                    JobRow.id < job.id,
                )
            )
        return (earlier or 0) + 1

    def _clear(self, job: JobRow, fencing_token: int) -> None:
        """Remove the files of attempts below this token; the job itself does not depend on it."""
        try:
            remove_lost_attempts(self._spool, self._database, job, fencing_token)
        except (OSError, SQLAlchemyError) as error:
            log.warning("leftovers_not_removed", error=type(error).__name__)

    def _load_models(self) -> bool:
        """Load what is in use here, so that the first study waits for nothing. False: it is lost."""
        share = self._engine.share()
        in_use = self._digests_in_use()
        for bundle in self._registry.bundles.values():
            if bundle.digest not in in_use or not share.has(bundle.card.name):
                continue
            try:
                self._engine.load(bundle, in_use)
                if not self._is_warm:
                    warm_up(bundle)
                    self._is_warm = True
            except InferenceError as error:
                log.error("model_not_loaded", model=bundle.card.name, reason=str(error))
            except EngineLost as error:
                log.error("engine_lost", reason=str(error))
                return False
        keep_what_is_loaded()
        return True

    def _digests_in_use(self) -> frozenset[str]:
        """The bundles whose state lets them work now."""
        with self._database.snapshot() as session:
            return frozenset(
                bundle.digest
                for bundle in list(self._registry.bundles.values())
                if state_here(session, self._settings.models, bundle) in WORKING_STATES
            )


class Heartbeat:
    """Renews a lease while its job runs, and ends the process when the job takes too long.

    A hanging model cannot be stopped from within, so the process goes; its successor starts clean.
    A model that hangs inside native code and keeps the interpreter to itself stops this thread, too:
    then faulthandler's timer ends the process, and the job is recovered when the lease expires.
    """

    def __init__(self, lose: Callable[[str], None], renew: Callable[[], bool], rules: WorkerSettings) -> None:
        self._lose = lose
        self._renew = renew
        self._rules = rules
        self._deadline = time.monotonic() + rules.job_timeout_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def __enter__(self) -> None:
        last_s = self._rules.job_timeout_s + self._rules.lease_s
        faulthandler.dump_traceback_later(last_s, exit=True, file=STDERR)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _beat(self) -> None:
        while not self._done.wait(self._rules.lease_s / 3):
            if time.monotonic() > self._deadline:
                self._end_process()
            try:
                self._renew()  # when it is lost, publishing will be refused
            except SQLAlchemyError as error:
                log.warning("lease_not_renewed", error=type(error).__name__)

    def _end_process(self) -> None:
        log.error("job_timed_out")
        try:
            self._lose(f"the job took longer than {self._rules.job_timeout_s:g} s (worker.job_timeout_s)")
        except (StaleLease, SQLAlchemyError) as error:  # the lease expires, and the job is recovered
            log.warning("loss_not_recorded", error=type(error).__name__)
        finally:
            os._exit(EXIT_TIMED_OUT)
