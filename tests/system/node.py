"""A whole node as its own processes, as an administrator would start it, for tests to talk to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from pydicom import Dataset, dcmread
from sqlalchemy import select

from dicomnode.config import load_settings
from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import echo, send
from dicomnode.errors import TransientError
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow, DeliveryRow, JobRow, StudyRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings, Settings

T = TypeVar("T")

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 120.0
"""The supervisor itself gives its processes a minute."""
RESULT_TIMEOUT_S = 240.0
ENDED = (FileNotFoundError, ProcessLookupError)
"""What reading of a process that has ended raises, before or after its file is open."""
RESPONSE_TIMEOUT_S = 30.0
AE_TITLE = "TESTNODE"

ROUTE = """
[[route]]
name = "{name}"
model = "{model}"
destinations = ["PACS"]
select = "all"
[route.when]
modality = "{modality}"
"""


def wait_for(found: Callable[[], T | None], what: str, timeout_s: float = RESULT_TIMEOUT_S) -> T:
    """Ask until the answer is not None and not empty; fails the test when time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def archive_on_loopback(folder: Path, ae_title: str = "PACS") -> Archive:
    """A small PACS, started."""
    archive = Archive(ae_title, free_port(), folder)
    archive.start()
    return archive


@dataclass
class Node:
    """`dicomnode serve` in `folder`, with the PACS that it knows."""

    folder: Path
    models: Path
    pacs_ae_title: str
    pacs_port: int
    routes: dict[str, str]
    """Modality -> model."""
    settings_text: str = ""
    count_instances: bool = True
    quiet_period_s: float = 2.0
    lease_s: float = 6.0
    maximum_attempts: int = 3
    maximum_losses: int = 2
    maximum_associations: int = 20
    minimum_free_gb: float = 0.1
    storage_commitment: bool = False
    """Whether the PACS is asked to commit to the results."""
    through: tuple[str, ...] = ()
    """A program that runs the whole node, with its arguments."""
    devices: tuple[str, ...] = ("cpu",)
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the environment of the node's processes."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    @property
    def peer(self) -> PeerSettings:
        return PeerSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.port)

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.database_url)

    def write_configuration(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        routes = "".join(
            ROUTE.format(name=f"{modality} to {model}", model=model, modality=modality)
            for modality, model in self.routes.items()
        )
        self.config.write_text(
            f"""\
[node]
ae_title = "{AE_TITLE}"
host = "127.0.0.1"
port = {self.port}
data = "data"

[listener]
minimum_free_gb = {self.minimum_free_gb:.9f}
maximum_associations = {self.maximum_associations}

[[peer]]
name = "PACS"
ae_title = "{self.pacs_ae_title}"
host = "127.0.0.1"
port = {self.pacs_port}
may_send = true
count_instances = {str(self.count_instances).lower()}
storage_commitment = {str(self.storage_commitment).lower()}

[models]
folder = "{self.models}"

[worker]
devices = {json.dumps(self.devices)}
lease_s = {self.lease_s}
retry_delay_s = 0.2
maximum_attempts = {self.maximum_attempts}
maximum_losses = {self.maximum_losses}

[assembly]
quiet_period_s = {self.quiet_period_s}
deadline_s = 600.0

[delivery]
first_delay_s = 0.3
{self.settings_text}
{routes}
"""
        )

    def start(self) -> Node:
        """Start all roles and wait until the listener answers."""
        self.spawn()
        wait_for(self.answers, "the node answers a C-ECHO", START_TIMEOUT_S)
        return self

    def spawn(self) -> None:
        """Start all roles and wait for nothing."""
        if not self.config.exists():
            self.write_configuration()
        self.process = self.run("serve", *self.through)

    def run(self, role: str, *through: str) -> subprocess.Popen[bytes]:
        """Start `dicomnode ROLE` in a process group of its own; `through` is a program that runs it."""
        command = [*through, sys.executable, "-m", "dicomnode", role, "--config", str(self.config)]
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def answers(self) -> bool:
        try:
            echo(self.pacs_ae_title, self.peer)
        except TransientError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_TIMEOUT_S)

    def kill_everything(self) -> None:
        """SIGKILL for every process of the node at once, as when the power fails."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def process_of(self, role: str) -> int:
        """Process id of one role ("receive", "record", "work", "housekeep")."""
        for process in self.processes_of(role):
            return process
        raise AssertionError(f"no process runs {role}")

    def processes_of(self, role: str) -> list[int]:
        """Process ids of all that run one role."""
        assert self.process is not None
        roles = children_of(self.process.pid)
        return [pid for pid in (*roles, *chain.from_iterable(map(children_of, roles))) if _plays(pid, role)]

    def studies(self, **values: Any) -> list[StudyRow]:
        return self._rows(StudyRow, **values)

    def jobs(self, **values: Any) -> list[JobRow]:
        return self._rows(JobRow, **values)

    def deliveries(self, **values: Any) -> list[DeliveryRow]:
        return self._rows(DeliveryRow, **values)

    def events(self, **values: Any) -> list[AuditRow]:
        return self._rows(AuditRow, **values)

    def _rows(self, table: type[T], **values: Any) -> list[T]:
        query = select(table).filter_by(**values)
        with self.database.snapshot() as session:
            return list(session.scalars(query))

    def wait_until_delivered(
        self, study_instance_uid: str, jobs: int = 1, timeout_s: float = RESULT_TIMEOUT_S
    ) -> list[JobRow]:
        """Until `jobs` jobs of the study have succeeded and all that they made is delivered."""

        def done() -> list[JobRow] | None:
            found = self.jobs(study_instance_uid=study_instance_uid)
            failed = [job.error for job in found if job.state == "failed"]
            assert not failed, failed
            succeeded = [job for job in found if job.state == "succeeded"]
            if len(succeeded) < jobs:
                return None
            states = {d.state for job in succeeded for d in self.deliveries(job_id=job.id)}
            return succeeded if states == {"delivered"} else None

        return wait_for(done, f"results of {study_instance_uid} are delivered", timeout_s)

    def wait_until_ended(self, study_instance_uid: str) -> StudyRow:
        """Until the study is ignored, or every job of it has ended in one way or another."""

        def ended() -> StudyRow | None:
            found = self.studies(study_instance_uid=study_instance_uid)
            if not found or found[0].state in ("receiving", "complete"):
                return None
            open_jobs = [j for j in self.jobs(study_instance_uid=study_instance_uid)
                         if j.state in ("queued", "running")]  # fmt: skip
            return None if open_jobs else found[0]

        return wait_for(ended, f"study {study_instance_uid} has ended")


def children_of(pid: int) -> list[int]:
    """The processes that the threads of a process started; none of one that ended."""
    listed: list[str] = []
    with suppress(*ENDED):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(*ENDED):  # this thread alone
                listed.append((thread / "children").read_text())
    return [int(child) for children in listed for child in children.split()]


def _plays(pid: int, role: str) -> bool:
    """Whether a role is a word of the command line of a process."""
    try:
        return role.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except ENDED:
        return False


def forward(node: Node, pacs: Archive, paths: list[Path]) -> None:
    """Put the images into the archive and send them to the node, as a forwarding rule does."""
    pacs.add(paths)
    responses = list(send(pacs.ae_title, node.peer, paths, RESPONSE_TIMEOUT_S))
    assert {response.fate for response in responses} == {Fate.ACCEPTED}


def received(pacs: Archive, study_instance_uid: str) -> list[Dataset]:
    """The results of one study that the archive has been sent."""
    objects = [dcmread(path) for path in pacs.results()]
    return [dataset for dataset in objects if dataset.StudyInstanceUID == study_instance_uid]
