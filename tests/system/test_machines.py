"""One node on several machines: receivers behind HAProxy, one PostgreSQL, one spool on GlusterFS, all real.

It is upgraded from an older version, of the history, while studies arrive; then a machine dies for good.

Not covered: a network between the machines, and clocks that differ; NFS and CephFS; every pair of versions
(the older one here has the schema before the newest, and journals).
"""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import Response, send
from dicomnode.errors import TransientError
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import newest_revision, revision_of
from dicomnode.records.revisions import Revision
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import PeerSettings
from tests.phantoms import phantom
from tests.postgres import running_cluster
from tests.system.balancer import ADDRESS, Balancer
from tests.system.machines import FileServer, Machine
from tests.system.node import (
    AE_TITLE,
    RESPONSE_TIMEOUT_S,
    Node,
    archive_on_loopback,
    children_of,
    received,
    wait_for,
)
from tests.system.roles import ROOT, STOP_TIMEOUT_S, Roles, stop

pytestmark = [pytest.mark.slow, pytest.mark.real_parts, pytest.mark.timeout(900)]

OLDER = "3a3955ee7fa7"
"""Earlier ones may not hear that they are to stop."""
RECORDS = "records"
RECEIVERS = ("one", "two")
FINE_MM = (4.0, 0.8, 0.8)
COARSE_MM = (16.0, 2.0, 2.0)
HALF_WAY = 3
"""Images after which a sender may wait."""
MOST_WAITING = 3
"""Jobs; the department sends no further study meanwhile."""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older version of the program; skips the tests where the history does not reach that far."""
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", OLDER, "dicomnode", "inference"], capture_output=True, check=False
    )
    if archive.returncode != 0:
        pytest.skip(f"commit {OLDER} is not in this clone")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    running = FileServer(tmp_path_factory.mktemp("files"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def roles(
    tmp_path_factory: pytest.TempPathFactory, models: Path, server: FileServer, older: Path
) -> Iterator[Roles]:
    """All roles of the older version: two machines that receive, one that does the rest."""
    folder = tmp_path_factory.mktemp("roles")
    with ExitStack() as stack:
        pacs = archive_on_loopback(folder / "pacs")
        stack.callback(pacs.stop)
        cluster = stack.enter_context(running_cluster())
        cluster.create_database(RECORDS)
        node = Node(
            folder / "node", models, pacs.ae_title, pacs.port, {"CT": "threshold-ct"},
            settings_text=f'[database]\nurl = "{cluster.url(RECORDS)}"\n',
            quiet_period_s=STOP_TIMEOUT_S, lease_s=STOP_TIMEOUT_S,  # nothing hangs on this machine's speed
        )  # fmt: skip
        node.write_configuration()
        text = node.config.read_text()
        node.config.write_text(text.replace("[listener]\n", f'[listener]\ntrusted_proxies = ["{ADDRESS}"]\n'))
        machines = {}
        for name in (*RECEIVERS, "rest"):
            machines[name] = Machine(name, server, node.folder / "data")
            stack.callback(machines[name].die)
        places = {name: machines.get(name, machines["rest"]) for name in (*RECEIVERS, "housekeep", "work")}
        roles = Roles(node, pacs, places, {name: free_port() for name in RECEIVERS})
        for name in places:
            roles.start(name, older)
        yield roles


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
            done = {answer.path for answer in self._answers() if answer.fate is Fate.ACCEPTED}
            self._missing = [path for path in self._missing if path not in done]
            self.broken += bool(self._missing)

    def _answers(self) -> Iterator[Response]:
        try:
            for number, answer in enumerate(
                send(self._pacs.ae_title, self._node, self._missing, RESPONSE_TIMEOUT_S), start=1
            ):
                yield answer
                if self._go_on is not None and number == HALF_WAY:
                    self._go_on.wait(STOP_TIMEOUT_S)
        except TransientError:
            return


class Department(threading.Thread):
    """Sends study after study, whatever happens to the node."""

    def __init__(self, roles: Roles, port: int, folder: Path) -> None:
        super().__init__()
        self._roles, self._port, self._folder = roles, port, folder
        self._over = threading.Event()
        self.sent: dict[str, int] = {}
        """Study -> number of its images."""
        self.broken = 0

    def run(self) -> None:
        while not self._over.is_set():
            if len(self._roles.node.jobs(state="queued")) >= MOST_WAITING:
                self._over.wait(0.2)
                continue
            uid, paths = study(self._roles, self._folder, COARSE_MM)
            sender = Sender(self._roles.pacs, self._port, paths)
            sender.run()
            self.broken += sender.broken
            self.sent[uid] = len(paths)

    def stop(self) -> None:
        self._over.set()
        self.join(STOP_TIMEOUT_S)


def study(roles: Roles, folder: Path, spacing_mm: tuple[float, float, float]) -> tuple[str, list[Path]]:
    identity = SeriesIdentity()
    paths = write_series(
        phantom(spacing_mm=spacing_mm).volume, folder / identity.study_instance_uid, identity
    )
    roles.pacs.add(paths)
    return identity.study_instance_uid, paths


def check_delivered_once(roles: Roles, server: FileServer, study_uid: str, image_count: int) -> None:
    (job,) = roles.node.wait_until_delivered(study_uid, timeout_s=STOP_TIMEOUT_S)
    rows = recorded(roles, study_uid)
    assert len(rows) == image_count
    for row in rows:
        assert (server.brick / Path(row.path).relative_to(roles.node.folder / "data")).exists()
    results = [dataset.SOPInstanceUID for dataset in received(roles.pacs, study_uid)]
    assert len(results) == len(set(results)) == len(roles.node.deliveries(job_id=job.id)) == 3


def _schema(node: Node) -> str:
    with node.database.snapshot() as session:
        found = revision_of(session)
    assert found is not None
    return found


def _the_trail_holds(node: Node) -> None:
    with node.database.snapshot() as session:
        assert not verify_chain(session).faults


def test_every_role_is_replaced_by_its_newer_version_while_studies_arrive_and_no_sender_notices(
    roles: Roles, balancer: Balancer, server: FileServer, tmp_path: Path
) -> None:
    node = roles.node
    before = Revision.named(_schema(node)).number
    department = Department(roles, balancer.port, tmp_path)
    department.start()
    try:
        old = roles.running["work"]
        wait_for(lambda: node.jobs(state="succeeded"), "the older worker works", STOP_TIMEOUT_S)
        roles.start("work")  # brings the schema to its own revision
        wait_for(lambda: _schema(node) == newest_revision(), "the schema is the newest", STOP_TIMEOUT_S)
        wait_for(
            lambda: len({job.worker for job in node.jobs() if job.worker}) == 2,
            "workers of both versions work",
            STOP_TIMEOUT_S,
        )
        for name in RECEIVERS:
            balancer.drain(name)
            assert roles.replace(name) == 0
            balancer.ready(name)
        assert stop(old) == 0
        assert roles.replace("housekeep") == 0  # one at a time
    finally:
        department.stop()

    assert before < Revision.named(newest_revision()).number
    assert department.broken == 0
    for uid, image_count in department.sent.items():
        check_delivered_once(roles, server, uid, image_count)
    assert {job.attempt for job in node.jobs()} == {1}
    assert not node.events(event="job_recovered")
    _the_trail_holds(node)


def test_a_machine_dies_amid_a_study_and_another_records_what_it_had_acknowledged(
    roles: Roles, balancer: Balancer, server: FileServer, tmp_path: Path
) -> None:
    uid, paths = study(roles, tmp_path, FINE_MM)
    lost = roles.running["one"]
    (receiver,) = children_of(lost.pid)
    dead = threading.Event()
    senders = [Sender(roles.pacs, balancer.port, paths[number::2], dead) for number in range(2)]
    before = balancer.sessions()
    for sender in senders:
        sender.start()
    wait_for(lambda: len(recorded(roles, uid)) >= 2 * HALF_WAY, "what came over both receivers is recorded")
    assert all(count > before[name] for name, count in balancer.sessions().items())
    (recorder,) = children_of(receiver)
    os.kill(recorder, signal.SIGSTOP)
    other_uid, other_paths = study(roles, tmp_path, COARSE_MM)
    assert answers_of(roles, "one", other_paths) == {Fate.ACCEPTED}
    assert not recorded(roles, other_uid)
    roles.machines["one"].die()
    dead.set()
    for sender in senders:
        sender.join(STOP_TIMEOUT_S)
    assert sum(sender.broken for sender in senders) >= 1  # it was in the middle

    check_delivered_once(roles, server, uid, len(paths))
    check_delivered_once(roles, server, other_uid, len(other_paths))  # which nobody sent again
    journals = server.brick / "spool" / "journals"
    wait_for(lambda: not list(journals.glob("one-*")), "the journal of the lost machine is gone")
    addresses = {row.detail["address"] for row in roles.node.events(event="instance_received")}
    assert addresses == {"127.0.0.1"}  # the sender's, and not that of the load balancer
    _the_trail_holds(roles.node)


def recorded(roles: Roles, study_uid: str) -> list[InstanceRow]:
    return roles.node._rows(InstanceRow, study_instance_uid=study_uid)


def answers_of(roles: Roles, name: str, paths: list[Path]) -> set[Fate]:
    """What one receiver answers to images that come past the load balancer."""
    receiver = PeerSettings(name=name, ae_title=AE_TITLE, host="127.0.0.1", port=roles.ports[name])
    return {answer.fate for answer in send(roles.pacs.ae_title, receiver, paths, RESPONSE_TIMEOUT_S)}
