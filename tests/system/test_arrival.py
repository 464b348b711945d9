"""How studies come in, with whole nodes: at once, ten times, over two associations, and between two nodes.

Not covered: senders on other machines, and clocks that differ.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import send
from dicomnode.records.tables import InstanceRow
from dicomnode.selftest.archive import Archive
from dicomnode.selftest.temporary import free_port
from dicomnode.series_writer import SeriesIdentity, write_series
from tests.phantoms import phantom
from tests.system.node import AE_TITLE, RESPONSE_TIMEOUT_S, Node, forward, received, wait_for

pytestmark = pytest.mark.slow


def times_of(node: Node, study_instance_uid: str, event: str) -> list[Any]:
    return [row.at for row in node.events(event=event, study_instance_uid=study_instance_uid)]


@pytest.fixture
def patient_node(tmp_path: Path, models: Path, pacs: Archive) -> Iterator[Node]:
    """On a busy machine, too, a count comes before this quiet period ends."""
    routes = {"CT": "threshold-ct"}
    running = Node(tmp_path / "node", models, pacs.ae_title, pacs.port, routes, quiet_period_s=60.0).start()
    yield running
    running.stop()


def test_a_counted_study_starts_within_moments_of_its_last_instance(
    patient_node: Node, pacs: Archive, tmp_path: Path, capsys: Any
) -> None:
    """The first study waits for the worker to load its models; the other two are measured."""
    node = patient_node
    for slice_mm in (5.0, 5.0, 0.5):
        identity = SeriesIdentity()
        uid = identity.study_instance_uid
        paths = write_series(phantom(spacing_mm=(slice_mm, 2.0, 2.0)).volume, tmp_path / uid, identity)
        forward(node, pacs, paths)
        node.wait_until_delivered(uid)
        last = max(times_of(node, uid, "instance_received"))
        ((closed,), (started,)) = (times_of(node, uid, kind) for kind in ("study_completed", "job_started"))
        (told,) = node.events(event="study_completed", study_instance_uid=uid)
        assert told.detail["rule"] == "expected_count"
        complete_s, start_s = (closed - last).total_seconds(), (started - last).total_seconds()
        with capsys.disabled():
            print(f"\n{len(paths)} instances: complete {complete_s:.2f} s after the last one, "
                  f"job started {start_s:.2f} s after it")  # fmt: skip
    assert start_s < 30, "about a second on an idle machine; the quiet period is no part of it"


def test_a_study_sent_ten_times_has_one_result_and_costs_little(
    node: Node, pacs: Archive, tmp_path: Path, capsys: Any
) -> None:
    identity = SeriesIdentity()
    paths = write_series(phantom().volume, tmp_path, identity)
    uid = identity.study_instance_uid
    took_s = []
    for _ in range(10):
        started = time.monotonic()
        forward(node, pacs, paths)
        took_s.append(time.monotonic() - started)
        node.wait_until_delivered(uid)
    with capsys.disabled():
        print(f"\n{len(paths)} instances: {took_s[0]:.2f} s the first time, {took_s[9]:.2f} s the tenth time")
    kinds = Counter(row.event for row in node.events(study_instance_uid=uid))
    assert kinds["instance_received"] == len(paths)
    assert kinds["instance_repeated"] == 9 * len(paths)
    assert (kinds["job_created"], kinds["job_started"], kinds["study_reopened"]) == (1, 1, 0)
    assert Counter(found.Modality for found in received(pacs, uid)) == {"SEG": 1, "SR": 2}


def test_two_studies_over_four_interleaved_associations_are_two_results(
    node: Node, pacs: Archive, tmp_path: Path
) -> None:
    """Each study is sent in halves at the same time as the other one's."""
    identities = [SeriesIdentity(), SeriesIdentity()]
    parts: list[list[Path]] = []
    for number, identity in enumerate(identities):
        paths = write_series(phantom().volume, tmp_path / str(number), identity)
        pacs.add(paths)
        parts += [paths[::2], paths[1::2]]
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(
            lambda part: list(send(pacs.ae_title, node.peer, part, RESPONSE_TIMEOUT_S)), parts
        )
        assert {answer.fate for found in answers for answer in found} == {Fate.ACCEPTED}
    for identity in identities:
        (job,) = node.wait_until_delivered(identity.study_instance_uid)
        (routed,) = node.events(event="series_routed", study_instance_uid=identity.study_instance_uid)
        assert routed.detail["instance_count"] == len(parts[0]) + len(parts[1])
        assert job.generation == 1


@pytest.fixture
def two_nodes(tmp_path: Path, models: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes, each the other's destination and sender, carelessly with the same AE title."""
    ports = [free_port(), free_port()]
    nodes = [
        Node(
            tmp_path / f"node{number}", models, AE_TITLE, ports[1 - number], {"CT": "threshold-ct"},
            count_instances=False, port=ports[number],
        )
        for number in range(2)
    ]  # fmt: skip
    for found in nodes:
        found.start()
    yield nodes[0], nodes[1]
    for found in nodes:
        found.stop()


def test_two_nodes_that_send_to_each_other_stop_after_one_round(
    two_nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    identity = SeriesIdentity()
    paths = write_series(phantom().volume, tmp_path / "study", identity)
    uid = identity.study_instance_uid
    for node in two_nodes:
        answers = list(send(AE_TITLE, node.peer, paths, RESPONSE_TIMEOUT_S))
        assert {answer.fate for answer in answers} == {Fate.ACCEPTED}
    for node in two_nodes:
        node.wait_until_delivered(uid)
    for node in two_nodes:
        wait_for(lambda node=node: len(came_back(node)) >= 3, "the other node's results came")  # type: ignore[misc]
    before = [state_of(node) for node in two_nodes]
    time.sleep(4)  # twice the quiet period: a loop would have begun its next round
    assert [state_of(node) for node in two_nodes] == before
    for node in two_nodes:
        assert len(node.jobs()) == 1
        assert len(came_back(node)) == 3
        assert [study.state for study in node.studies()] == ["routed"]
        assert len(node._rows(InstanceRow)) == len(paths) + 3
        assert not node.events(event="study_reopened")


def came_back(node: Node) -> list[Any]:
    return node.events(event="own_result_received")


def state_of(node: Node) -> tuple[int, int, int, int]:
    return (
        len(node._rows(InstanceRow)),
        len(node.jobs()),
        len(node.deliveries()),
        len(node.events(event="job_created")),
    )
