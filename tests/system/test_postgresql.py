"""A whole node with three workers on PostgreSQL, while workers are killed and the server goes away.

`make crowd` does the first of it with hundreds of studies, and on a Ray cluster too.

Not covered: nodes on several machines, and a network that is cut in the middle of a commit.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import Response, send
from dicomnode.errors import TransientError
from dicomnode.records.chain import verify_chain
from dicomnode.records.tables import AuditRow, InstanceRow, JobRow
from dicomnode.selftest.archive import Archive
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.crash.invariants import Sent, complaints, data_set_digest
from tests.phantoms import phantom
from tests.postgres import Cluster, running_cluster, server_folder
from tests.system.node import Node, archive_on_loopback, forward, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STUDIES = 6
LONG_S = 300.0
SMALL_MM = (8.0, 2.0, 2.0)
RECORDS = "records"


@pytest.fixture(scope="module")
def primary() -> Iterator[Cluster]:
    """A server that forgets nothing."""
    with running_cluster({}) as cluster:
        cluster.create_database(RECORDS)
        yield cluster


@pytest.fixture(scope="module")
def standby(primary: Cluster) -> Iterator[Cluster]:
    """Another that follows it, and without which nothing is committed."""
    with server_folder() as folder:
        cluster = primary.standby(folder)
        cluster.start()
        primary.configure("synchronous_standby_names", "*")
        yield cluster
        cluster.stop("immediate")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = archive_on_loopback(tmp_path_factory.mktemp("pacs"))
    yield archive
    archive.stop()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, models: Path, pacs: Archive, primary: Cluster, standby: Cluster
) -> Iterator[Node]:
    running = Node(
        tmp_path_factory.mktemp("node"),
        models,
        pacs.ae_title,
        pacs.port,
        {"CT": "threshold-ct"},
        settings_text=f'[database]\nurl = "{primary.url(RECORDS, standby)}"\n',
        devices=("cpu", "cpu", "cpu"),
        maximum_attempts=20,
        maximum_losses=20,
        quiet_period_s=300.0,
    )
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def series(tmp_path: Path) -> Iterator[list[list[Path]]]:
    volume = phantom(spacing_mm=SMALL_MM).volume
    yield [write_series(volume, tmp_path / str(n), SeriesIdentity()) for n in range(STUDIES)]


def uid_of(paths: list[Path]) -> str:
    return str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)


def test_three_workers_that_are_killed_at_random_end_each_job_once(
    node: Node, pacs: Archive, primary: Cluster, series: list[list[Path]]
) -> None:
    chance = random.Random(1)
    for half in (series[: STUDIES // 2], series[STUDIES // 2 :]):
        for paths in half:
            forward(node, pacs, paths)
        wait_for(lambda: node.jobs(state="running"), "somebody works", LONG_S)
        os.kill(chance.choice(node.processes_of("work")), signal.SIGKILL)
        wait_for(lambda: len(node.processes_of("work")) == 3, "three workers again", LONG_S)
    for paths in series:
        node.wait_until_delivered(uid_of(paths), timeout_s=LONG_S)
    assert Counter(job.state for job in node.jobs()) == {"succeeded": STUDIES}
    objects = [dcmread(path) for path in pacs.results()]
    made = Counter((dataset.StudyInstanceUID, dataset.Modality) for dataset in objects)
    assert made == {(uid_of(p), m): n for p in series for m, n in (("SEG", 1), ("SR", 2))}
    acknowledged = {name: digest for paths in series for name, digest in digests(paths)}
    sent = Sent(acknowledged, frozenset(map(uid_of, series)))
    data, url = node.folder / "data", primary.url(RECORDS)
    wait_for(lambda: not complaints(data, sent, postgresql=url), "the independent checker is content", LONG_S)


def digests(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """SOP Instance UID and digest of each file."""
    for path in paths:
        yield str(dcmread(path).SOPInstanceUID), data_set_digest(path.read_bytes())


def test_a_server_that_goes_away_and_a_standby_that_takes_over_lose_nothing(
    node: Node, pacs: Archive, primary: Cluster, standby: Cluster, series: list[list[Path]]
) -> None:
    wait_for(
        lambda: _all_work(node), "every role has started: before, it may die without its database", LONG_S
    )
    processes = {role: node.processes_of(role) for role in ("receive", "housekeep", "work")}
    before, during, after = series[:3]
    acknowledged = []
    for response in send(pacs.ae_title, node.peer, before, 30.0):
        if response.fate is Fate.ACCEPTED:
            acknowledged.append(response.path)
        if len(acknowledged) == len(before) // 2:
            primary.stop("immediate")
    assert len(acknowledged) < len(before)
    assert Fate.ACCEPTED not in {response.fate for response in _sent(node, pacs, during)}
    primary.start()
    wait_for(lambda: _taken(node, pacs, before), "the server is back", LONG_S)
    forward(node, pacs, before + during)
    for paths in (before, during):
        node.wait_until_delivered(uid_of(paths), timeout_s=LONG_S)

    pacs.add(after)  # else its count would close the study with whatever has come
    forward(node, pacs, after[:1])
    primary.stop("immediate")
    standby.promote()
    wait_for(lambda: _taken(node, pacs, after), "the standby has taken over", LONG_S)
    node.wait_until_delivered(uid_of(after), timeout_s=LONG_S)
    assert processes == {role: node.processes_of(role) for role in processes}
    with node.database.snapshot() as session:
        kept = set(session.scalars(select(InstanceRow.sop_instance_uid)))
        assert set(session.scalars(select(JobRow.state))) == {"succeeded"}
    for path in (*before, *during, *after):
        assert str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) in kept
    _the_trail_holds(node)


def _all_work(node: Node) -> bool:
    """Whether every process of housekeeping and of the workers has got beyond its start."""
    told = [json.loads(line) for line in node.log.read_text().splitlines() if line[:1] + line[-1:] == "{}"]
    started = {line["pid"] for line in told if line["event"] in ("worker_started", "housekeeping_started")}
    working = {*node.processes_of("work"), *node.processes_of("housekeep")}
    return len(working) == len(node.devices) + 1 and working <= started


def _sent(node: Node, pacs: Archive, paths: list[Path]) -> list[Response]:
    return list(send(pacs.ae_title, node.peer, paths, 60.0))


def _taken(node: Node, pacs: Archive, paths: list[Path]) -> bool:
    """Whether the node takes all of it now."""
    try:
        return {response.fate for response in _sent(node, pacs, paths)} == {Fate.ACCEPTED}
    except TransientError:
        return False


def _the_trail_holds(node: Node) -> None:
    with node.database.snapshot() as session:
        assert verify_chain(session).faults == ()
        numbers = list(session.scalars(select(AuditRow.id).order_by(AuditRow.id)))
    assert numbers == list(range(1, len(numbers) + 1)), "a crash of the server wastes numbers"
