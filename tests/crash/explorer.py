"""Kills a node in the middle of a study, lets it come back, and asks the independent checker.

A lane is one node with an Orthanc as its PACS; it goes through many rounds. In a round one study is sent
while one or more kills happen. Not covered: a power failure that takes what the disk had not written;
the order of writes that protects against it is in `test_durability.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from alembic import command
from alembic.config import Config
from pydicom.uid import generate_uid

import dicomnode.records.db
from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.crash.invariants import Sent, complaints
from tests.crash.points import PAUSED, POINTS, RANDOM_POINTS, KillPoint, point_called
from tests.crash.sender import Study, store
from tests.phantoms import phantom
from tests.system.node import AE_TITLE, Node, wait_for
from tests.system.orthanc import AE, Orthanc

PLANT = Path(__file__).parent / "plant"
ROOT = Path(__file__).parents[2]
SPACING_MM = (8.0, 2.0, 2.0)
"""Twelve small slices: the path of a study is the same for large ones."""
LONGEST_WAIT_S = 8.0
"""Random kills happen within this time after sending began."""

FIRST_REVISION = "0001"

Scope = Literal["process", "power"]
"""SIGKILL for the process at the point alone, or for all processes of the node at once."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Plan:
    """What shall happen in one round."""

    points: tuple[KillPoint, ...] = ()
    scope: Scope = "process"
    random_points: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What happened: the points where the node was killed, and what is wrong now."""

    plan: Plan
    killed: tuple[str, ...]
    complaints: tuple[str, ...]
    duration_s: float


@dataclass
class Lane:
    """One node that is killed again and again."""

    folder: Path
    models: Path
    chance: random.Random
    patience_s: float = 600.0
    """How long a study may take from the first image to rest, restarts included."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._reviving = threading.Lock()
        self._points = self.folder / "points"
        for part in ("armed", "fired"):
            (self._points / part).mkdir(parents=True)
        keys = ("name", "role", "target", "when")
        table = [{key: value for key, value in asdict(point).items() if key in keys} for point in POINTS]
        (self._points / "points.json").write_text(json.dumps(table))
        port = free_port()
        self.orthanc = Orthanc(self.folder / "orthanc", port, forward=False)
        self.node = Node(
            self.folder / "node",
            self.models,
            AE,
            self.orthanc.dicom_port,
            {"CT": "threshold"},
            port=port,
            quiet_period_s=300.0,
            maximum_attempts=20,
            maximum_losses=10,
            environment={
                "PYTHONPATH": os.pathsep.join((str(PLANT), str(ROOT))),
                "KILL_POINTS": str(self._points),
            },
        )

    def open(self) -> Lane:
        """Start the PACS; the node starts with the first round."""
        self.orthanc.start()
        return self

    def close(self) -> None:
        """Stop everything, the node as it has been used to."""
        if self.node.process is not None and self.node.process.poll() is None:
            self.node.kill_everything()
        self.orthanc.stop()

    def round(self, plan: Plan) -> Outcome:
        """Send one study, kill as planned, wait until the node is at rest, and judge."""
        started = time.monotonic()
        if any(point.at_migration for point in plan.points):
            self._go_back()
        else:
            self.revive()
        for point in plan.points:
            self.arm(point, plan.scope)
        study = self._new_study()
        killed: list[str] = []
        killer = threading.Thread(target=self._kill_at_random, args=(plan.random_points, killed))
        killer.start()
        problems = []
        try:
            self._deliver(study)
            killer.join()
            self.wait_for_rest(study)
        except AssertionError as error:
            problems.append(str(error))
        killer.join()
        killed += [point.name for point in plan.points if self._fired(point)]
        problems += [f"{point.name} was never reached" for point in plan.points if not self._fired(point)]
        for point in plan.points:
            self._armed(point).unlink(missing_ok=True)
            self._fired_file(point).unlink(missing_ok=True)
        problems += self.judge()
        return Outcome(plan, tuple(killed), tuple(problems), round(time.monotonic() - started, 1))

    def pause_a_worker(self) -> Outcome:
        """Stop a worker that is about to publish until another has its job, then let it go on (fencing)."""
        started, point = time.monotonic(), point_called("all_stored")
        self.revive()
        study = self._new_study()
        self.arm(point, "pause")
        self._deliver(study)
        wait_for(lambda: self._fired(point), "the worker is stopped", self.patience_s)
        first = self.node.process_of("work")
        self._fired_file(point).unlink()
        self.arm(point, "pause")
        second = self.node.run("work")
        try:
            wait_for(lambda: self._fired(point), "the other worker has the job", self.patience_s)
            told = self.node.log.read_text().count("lease_lost")
            os.kill(first, signal.SIGCONT)
            wait_for(
                lambda: self.node.log.read_text().count("lease_lost") > told or self._published(study),
                "the first worker has tried to publish",
            )
            os.kill(second.pid, signal.SIGCONT)
            self.wait_for_rest(study)
        finally:
            second.kill()
            second.wait()
        self._fired_file(point).unlink()
        problems = [f"{path} was published by a worker that had lost its lease"
                    for path in self._published(study) if path.endswith("-1.dcm")]  # fmt: skip
        plan = Plan((), random_points=(PAUSED,))
        duration_s = round(time.monotonic() - started, 1)
        return Outcome(plan, (PAUSED,), (*problems, *self.judge()), duration_s)

    def _published(self, study: Study) -> list[str]:
        """Files of the results; their names end with the job and the fencing token."""
        query = "SELECT path FROM results WHERE study_instance_uid = :uid"
        return [str(path) for (path,) in self.ask(query, uid=study.study_instance_uid)]

    def judge(self) -> list[str]:
        """What the independent checker says of everything that this lane has done so far."""
        sent = Sent(self.acknowledged, frozenset(self.studies))
        return complaints(self.node.folder / "data", sent, f"http://127.0.0.1:{self.orthanc.http_port}")

    def arm(self, point: KillPoint, order: str) -> None:
        """From now on a process dies at this point, once."""
        nth = point.first + point.step * self.chance.randrange(point.span)
        written = self._armed(point).with_suffix(".new")
        written.write_text(json.dumps({"nth": nth, "signal": order}))
        written.rename(self._armed(point))

    def revive(self) -> None:
        """Start the node when it is dead as a whole; single processes are its own business."""
        with self._reviving:
            if self.node.process is None or self.node.process.poll() is not None:
                self.node.spawn()

    def _go_back(self) -> None:
        """Stop the node and give its database the oldest schema, so that it migrates when it starts.

        The first time there is no database at all.
        """
        if self.node.process is None:
            return
        self.node.kill_everything()
        config = Config()
        config.set_main_option(
            "script_location", str(Path(dicomnode.records.db.__file__).parent / "migrations")
        )
        database = self.node.database
        with database.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, FIRST_REVISION)
        database.engine.dispose()

    def wait_for_rest(self, study: Study) -> None:
        """Wait until the study, its jobs and deliveries are at rest and every armed point has fired."""
        uid = study.study_instance_uid

        def at_rest() -> bool:
            self.revive()
            return not any((self._points / "armed").iterdir()) and self._is_at_rest(uid)

        wait_for(at_rest, f"study {uid} is at rest", self.patience_s)

    def _is_at_rest(self, uid: str) -> bool:
        query = """
            SELECT (SELECT count(*) FROM studies WHERE study_instance_uid = :uid AND state = 'routed')
               AND NOT EXISTS (SELECT * FROM jobs WHERE state IN ('queued', 'running'))
               AND NOT EXISTS (SELECT * FROM deliveries WHERE state IN ('waiting', 'sending'))
        """
        return bool(self.ask(query, uid=uid)[0][0])

    def ask(self, query: str, **values: str) -> list[tuple[object, ...]]:
        """Read the node's database while it runs."""
        file = self.node.folder / "data" / "node.sqlite"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()

    def _new_study(self) -> Study:
        uid = generate_uid()
        volume = phantom(spacing_mm=SPACING_MM, seed=self.chance.randrange(1 << 30)).volume
        paths = write_series(volume, self.folder / "sent" / uid, SeriesIdentity(study_instance_uid=uid))
        self.orthanc.upload(paths)  # it holds the study, so it can be asked for the count
        return Study(uid, tuple(paths))

    def _deliver(self, study: Study) -> None:
        """Send until everything is acknowledged, as a PACS with a queue does."""

        def sent() -> bool:
            self.revive()
            store(study, AE, AE_TITLE, self.node.port)
            self.acknowledged |= study.digests()
            return not study.missing

        self.studies.add(study.study_instance_uid)
        wait_for(sent, "every image is acknowledged", self.patience_s)

    def _kill_at_random(self, names: Sequence[str], killed: list[str]) -> None:
        moments = sorted(self.chance.uniform(0.0, LONGEST_WAIT_S) for _ in names)
        started = time.monotonic()
        for name, moment in zip(names, moments, strict=True):
            time.sleep(max(0.0, started + moment - time.monotonic()))
            self._kill(RANDOM_POINTS[name])
            killed.append(name)

    def _kill(self, role: str) -> None:
        """Kill now; a process that is just being started anew is waited for."""
        self.revive()
        if role == "power":
            self.node.kill_everything()
        elif role == "serve":
            assert self.node.process is not None
            os.kill(self.node.process.pid, signal.SIGKILL)
        else:
            os.kill(wait_for(lambda: self._pid_of(role), f"{role} runs", self.patience_s), signal.SIGKILL)

    def _pid_of(self, role: str) -> int | None:
        self.revive()
        try:
            return self.node.process_of(role)
        except (AssertionError, OSError):  # it is dead just now
            return None

    def _armed(self, point: KillPoint) -> Path:
        return self._points / "armed" / point.name

    def _fired_file(self, point: KillPoint) -> Path:
        return self._points / "fired" / point.name

    def _fired(self, point: KillPoint) -> bool:
        return self._fired_file(point).exists()
