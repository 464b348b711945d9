"""One node as roles of their own: two receivers behind a real HAProxy, on one database and one spool.

Not covered: several machines, and a spool on a network file system. All roles run here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import Response, send
from dicomnode.errors import TransientError
from dicomnode.records.chain import verify_chain
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import PeerSettings
from tests.phantoms import phantom
from tests.system.balancer import ADDRESS, Balancer
from tests.system.node import AE_TITLE, RESPONSE_TIMEOUT_S, Node, archive_on_loopback, received, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_parts, pytest.mark.timeout(600)]

STOP_TIMEOUT_S = 120.0
RECEIVERS = ("one", "two")
FINE_MM = (4.0, 0.8, 0.8)
COARSE_MM = (8.0, 2.0, 2.0)
HALF_WAY = 3
"""Images after which a sender may wait."""


@dataclass
class Roles:
    """Every role of one node as a process of its own, as a service manager would start them."""

    node: Node
    pacs: Archive
    ports: dict[str, int]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a role: the name of a receiver, or that of a command."""
        config = self.node.config.with_name(f"{name}.toml")
        port = self.ports.get(name, self.node.port)
        config.write_text(
            self.node.config.read_text().replace(f"port = {self.node.port}\n", f"port = {port}\n")
        )
        role = "receive" if name in self.ports else name
        command = [sys.executable, "-m", "dicomnode", role, "--config", str(config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.node.log.open("ab") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return self.running[name]

    def stop(self, name: str) -> int:
        """Ask a role to end, and wait for it: its exit status."""
        self.running[name].terminate()
        return self.running[name].wait(STOP_TIMEOUT_S)

    def stop_all(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(STOP_TIMEOUT_S)


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Roles]:
    folder = tmp_path_factory.mktemp("roles")
    pacs = archive_on_loopback(folder / "pacs")
    node = Node(
        folder / "node", models, pacs.ae_title, pacs.port, {"CT": "threshold-ct"},
        quiet_period_s=STOP_TIMEOUT_S, lease_s=STOP_TIMEOUT_S,  # nothing hangs on how fast this machine is
    )  # fmt: skip
    node.write_configuration()
    text = node.config.read_text()
    node.config.write_text(text.replace("[listener]\n", f'[listener]\ntrusted_proxies = ["{ADDRESS}"]\n'))
    roles = Roles(node, pacs, {name: free_port() for name in RECEIVERS})
    for name in (*RECEIVERS, "housekeep", "work"):
        roles.start(name)
    yield roles
    roles.stop_all()
    pacs.stop()


@pytest.fixture(scope="module")
def balancer(tmp_path_factory: pytest.TempPathFactory, roles: Roles) -> Iterator[Balancer]:
    running = Balancer(tmp_path_factory.mktemp("balancer"), roles.ports)
    yield running
    running.stop()


class Sender(threading.Thread):
    """Sends files over one association, and over further ones until all are acknowledged."""

    def __init__(
        self, pacs: Archive, port: int, paths: list[Path], go_on: threading.Event | None = None
    ) -> None:
        """With `go_on` it waits in the middle of its first association until that is set."""
        super().__init__()
        self._go_on = go_on
        self._missing = list(paths)
        self._pacs = pacs
        self._node = PeerSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=port)
        self.broken = 0
        """Associations that could not be had, or did not acknowledge all."""

    def run(self) -> None:
        while self._missing:
            try:
                answers = list(self._answers())
            except TransientError:
                answers = []
            done = {answer.path for answer in answers if answer.fate is Fate.ACCEPTED}
            self._missing = [path for path in self._missing if path not in done]
            self.broken += bool(self._missing)

    def _answers(self) -> Iterator[Response]:
        for number, answer in enumerate(
            send(self._pacs.ae_title, self._node, self._missing, RESPONSE_TIMEOUT_S), start=1
        ):
            yield answer
            if self._go_on is not None and number == HALF_WAY:
                self._go_on.wait(STOP_TIMEOUT_S)


def study(roles: Roles, folder: Path, spacing_mm: tuple[float, float, float]) -> tuple[str, list[Path]]:
    identity = SeriesIdentity()
    paths = write_series(
        phantom(spacing_mm=spacing_mm).volume, folder / identity.study_instance_uid, identity
    )
    roles.pacs.add(paths)
    return identity.study_instance_uid, paths


def check_delivered_once(roles: Roles, study_uid: str, image_count: int) -> None:
    (job,) = roles.node.wait_until_delivered(study_uid, timeout_s=STOP_TIMEOUT_S)
    rows = roles.node._rows(InstanceRow, study_instance_uid=study_uid)
    assert len(rows) == image_count
    assert all(Path(row.path).exists() for row in rows)
    results = [dataset.SOPInstanceUID for dataset in received(roles.pacs, study_uid)]
    assert len(results) == len(set(results)) == len(roles.node.deliveries(job_id=job.id)) == 3


def test_a_study_comes_over_two_receivers_and_one_is_killed_in_the_middle(
    roles: Roles, balancer: Balancer, tmp_path: Path
) -> None:
    uid, paths = study(roles, tmp_path, FINE_MM)
    killed = threading.Event()
    senders = [Sender(roles.pacs, balancer.port, paths[number::2], killed) for number in range(2)]
    for sender in senders:
        sender.start()
    wait_for(
        lambda: len(roles.node._rows(InstanceRow, study_instance_uid=uid)) >= HALF_WAY,
        "some images are there",
    )
    assert min(balancer.sessions().values()) >= 1  # each receiver has one of the two associations
    roles.running["one"].send_signal(signal.SIGKILL)
    roles.running["one"].wait()
    killed.set()
    for sender in senders:
        sender.join(STOP_TIMEOUT_S)
    assert sum(sender.broken for sender in senders) >= 1  # it was in the middle

    check_delivered_once(roles, uid, len(paths))
    addresses = {row.detail["address"] for row in roles.node.events(event="instance_received")}
    assert addresses == {"127.0.0.1"}  # the sender's, and not that of the load balancer
    with roles.node.database.snapshot() as session:
        assert not verify_chain(session).faults
    roles.running["one"].wait()
    roles.start("one")
    balancer.ready("one")


def test_every_role_is_restarted_while_studies_arrive_and_no_sender_notices(
    roles: Roles, balancer: Balancer, tmp_path: Path
) -> None:
    over, sent, senders = threading.Event(), dict[str, int](), list[Sender]()

    def keep_sending() -> None:
        while not over.is_set():
            uid, paths = study(roles, tmp_path, COARSE_MM)
            sender = Sender(roles.pacs, balancer.port, paths)
            sender.start()
            sender.join()
            senders.append(sender)
            sent[uid] = len(paths)

    department = threading.Thread(target=keep_sending)
    department.start()
    try:
        for name in RECEIVERS:
            balancer.drain(name)
            assert roles.stop(name) == 0
            roles.start(name)
            balancer.ready(name)
        old = roles.running["work"]
        wait_for(lambda: roles.node.jobs(state="running"), "the worker has a job")
        roles.start("work")  # the next one is there before the old one goes
        old.terminate()
        assert old.wait(STOP_TIMEOUT_S) == 0
        assert roles.stop("housekeep") == 0  # one at a time
        roles.start("housekeep")
    finally:
        over.set()
        department.join(STOP_TIMEOUT_S)

    assert [sender.broken for sender in senders] == [0] * len(sent)
    for uid, image_count in sent.items():
        check_delivered_once(roles, uid, image_count)
    restarted = [job for uid in sent for job in roles.node.jobs(study_instance_uid=uid)]
    assert {job.attempt for job in restarted} == {1}
    assert len({job.worker for job in restarted}) == 2
    assert not roles.node.events(event="job_recovered")
