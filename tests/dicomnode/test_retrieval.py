"""What did not arrive is fetched from a real Orthanc: by C-MOVE and C-GET, counted by C-FIND and QIDO-RS.

The steps of the clockwork are taken by hand, in this process. Not covered: a peer that stalls in a transfer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.uid import generate_uid
from sqlalchemy import select

from dicomnode.assemble import qido
from dicomnode.assemble.assembly import Assembly
from dicomnode.assemble.query import instances_at
from dicomnode.assemble.ticks import assembly_ticks, count_askers
from dicomnode.errors import TransientError
from dicomnode.receive.behind import mark_behind, mark_up_to_date
from dicomnode.receive.listener import Listener
from dicomnode.records.db import utc_now
from dicomnode.records.tables import InstanceRow, StudyRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings, Settings
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.parts import events, image, save, settings_in, wait_until
from tests.system.node import AE_TITLE
from tests.system.orthanc import AE, Orthanc

TIMEOUT_S = 90.0


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    server = Orthanc(folder, node_port=free_port(), forward=False, dicomweb=True)
    yield server.start()
    server.stop()


def node_of(folder: Path, orthanc: Orthanc, *, method: str = "no", dicomweb: bool = False) -> Settings:
    """A node that knows Orthanc, on the port where Orthanc expects it."""
    root = f"http://127.0.0.1:{orthanc.http_port}/dicom-web"
    settings = settings_in(folder, port=orthanc.node_port, peer_port=orthanc.dicom_port)
    peer = settings.peer[0].model_copy(
        update={
            "ae_title": AE,
            "count_instances": True,
            "retrieve_missing": method,
            "dicomweb": root if dicomweb else None,
        }
    )
    rules = settings.assembly.model_copy(
        update={"settle_s": 0.1, "count_interval_s": 0.1, "retrieve_after_s": 0.3, "quiet_period_s": 300.0}
    )
    node = settings.node.model_copy(update={"ae_title": AE_TITLE})
    return settings.model_copy(update={"peer": (peer,), "assembly": rules, "node": node})


def upload_study(orthanc: Orthanc, folder: Path, count: int) -> tuple[str, list[str]]:
    """A study of two series; returns its UID and Orthanc's identifiers of its instances."""
    study = generate_uid()
    series = [generate_uid(), generate_uid()]
    images = [
        image(
            StudyInstanceUID=study, SeriesInstanceUID=series[number % 2], PatientID=study[-16:],
            InstanceNumber=number,
        )
        for number in range(count)
    ]  # fmt: skip
    orthanc.upload([save(sent, folder / f"{sent.SOPInstanceUID}.dcm") for sent in images])
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": study}}
    return study, orthanc.post("/tools/find", query)


def forward(orthanc: Orthanc, instances: list[str]) -> None:
    orthanc.post("/modalities/NODE/store", {"Resources": instances, "Synchronous": True})


class Gathering:
    """A listener, and the ticks of assembly, each taken until a condition holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = migrated_database(settings)
        spool = Spool(settings.spool)
        spool.prepare()
        self.listener = Listener(settings, self.database, spool)
        self.assembly = Assembly(settings, self.database)
        asking = count_askers(settings, self.assembly, self.assembly.close_complete_studies)
        ticks = assembly_ticks(settings, self.database, self.assembly)
        self.works = [*(ask for _, ask in asking), *(work for _, work, _ in ticks)]

    def study(self, uid: str) -> StudyRow:
        with self.database.snapshot() as session:
            return session.get_one(StudyRow, uid)

    def tick_until_closed(self, uid: str) -> StudyRow:
        def closed() -> bool:
            self.listener.flush()  # what was fetched by C-MOVE has come this way
            for work in self.works:
                work()
            return self.study(uid).state != "receiving"

        wait_until(lambda: events(self.database, "instance_received"), TIMEOUT_S)
        self.listener.flush()
        wait_until(closed, TIMEOUT_S)
        return self.study(uid)


@pytest.fixture
def gathered() -> Iterator[list[Gathering]]:
    started: list[Gathering] = []
    yield started
    for found in started:
        found.listener.stop()
        found.database.engine.dispose()


def begun(
    gathered: list[Gathering], settings: Settings, orthanc: Orthanc, folder: Path, count: int, sent: int
) -> tuple[Gathering, str]:
    """A node that listens, and a study of which Orthanc holds `count` images and sent it the first ones."""
    node = Gathering(settings)
    gathered.append(node)
    node.listener.start()
    study, instances = upload_study(orthanc, folder, count)
    forward(orthanc, instances[:sent])
    return node, study


@pytest.mark.real_parts
@pytest.mark.parametrize(("method", "dicomweb"), [("get", False), ("move", True)])
def test_exactly_what_is_missing_is_fetched_and_the_study_is_complete(
    orthanc: Orthanc, tmp_path: Path, gathered: list[Gathering], method: str, dicomweb: bool
) -> None:
    settings = node_of(tmp_path, orthanc, method=method, dicomweb=dicomweb)
    node, study = begun(gathered, settings, orthanc, tmp_path, 9, 4)
    wait_until(lambda: len(events(node.database, "instance_received")) == 4)
    found = node.tick_until_closed(study)
    assert (found.state, found.completed_by, found.missing) == ("complete", "expected_count", None)
    assert (found.received_count, found.expected_count) == (9, 9)
    received = [detail for _, detail in events(node.database, "instance_received")]
    assert [bool(detail.get("asked_for")) for detail in received] == [False] * 4 + [True] * 5
    assert {detail["calling_ae_title"] for detail in received} == {AE}
    assert events(node.database, "instance_repeated") == [], "nothing that was here already came again"
    ((_, told),) = events(node.database, "instances_retrieved")
    assert told == {
        "peer": "PACS", "method": method, "missing_count": 5, "completed_count": 5, "failed_count": 0,
        "status": "0000",
    }  # fmt: skip
    with node.database.snapshot() as session:
        rows = session.scalars(select(InstanceRow)).all()
    assert all(Path(row.path).is_file() for row in rows)
    assert len({row.sop_instance_uid for row in rows}) == 9


@pytest.mark.real_parts
def test_what_may_only_wait_for_its_row_is_not_fetched(
    orthanc: Orthanc, tmp_path: Path, gathered: list[Gathering]
) -> None:
    settings = node_of(tmp_path, orthanc, method="get")
    node, study = begun(gathered, settings, orthanc, tmp_path, 3, 2)
    wait_until(lambda: len(events(node.database, "instance_received")) == 2)
    other = node.settings.spool / "journals" / "other"
    other.mkdir()
    mark_behind(other, utc_now() - timedelta(hours=1))
    for _ in range(10):
        time.sleep(0.1)
        for work in node.works:
            work()
    assert events(node.database, "instances_retrieved") == []
    mark_up_to_date(other)
    assert node.tick_until_closed(study).received_count == 3


@pytest.mark.real_parts
def test_a_peer_that_cannot_move_to_us_is_asked_three_times_and_then_the_rules_decide(
    orthanc: Orthanc, tmp_path: Path, gathered: list[Gathering]
) -> None:
    """Nobody listens at the port that Orthanc knows."""
    settings = node_of(tmp_path, orthanc, method="move")
    node, study = begun(gathered, settings, orthanc, tmp_path, 3, 2)
    node.listener.stop()
    node.works.append(node.assembly.close_complete_studies)

    def has_tried() -> bool:
        for work in node.works:
            work()
        return bool(events(node.database, "instances_retrieved"))

    wait_until(has_tried, TIMEOUT_S)
    with node.database.transaction() as session:  # the quiet period is over
        session.get_one(StudyRow, study).last_received_at -= timedelta(seconds=400)
    found = node.tick_until_closed(study)
    assert (found.completed_by, found.received_count) == ("quiet_period", 2)
    assert found.missing == "1 of the instances that ORTHANC holds had not arrived"
    told = [detail for _, detail in events(node.database, "instances_retrieved")]
    assert 1 <= len(told) <= 3
    assert {(detail["completed_count"], detail["missing_count"]) for detail in told} == {(0, 1)}
    assert all(detail["status"] != "0000" for detail in told)


@pytest.mark.real_parts
def test_orthanc_counts_alike_by_qido_and_by_find(orthanc: Orthanc, tmp_path: Path) -> None:
    study, instances = upload_study(orthanc, tmp_path, 5)
    peer = node_of(tmp_path, orthanc, dicomweb=True).peer[0]
    assert qido.count_instances(peer, study) == 5
    assert qido.count_instances(peer, generate_uid()) is None
    references = instances_at(AE_TITLE, peer, study)
    assert len({found.sop_instance_uid for found in references}) == len(instances) == 5
    assert len({found.series_instance_uid for found in references}) == 2


def web_peer(tmp_path: Path, **more: Any) -> PeerSettings:
    return PeerSettings(
        name="PACS", ae_title="PACS", host="127.0.0.1", port=104, dicomweb="http://127.0.0.1:9/dw", **more
    )


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[httpx.Request]:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        found: httpx.Response = answer
        return found

    def stream(method: str, url: str, **options: Any) -> Any:
        return httpx.Client(transport=httpx.MockTransport(handle)).stream(method, url, **options)

    monkeypatch.setattr(httpx, "stream", stream)
    return asked


def test_the_token_is_sent_and_read_anew_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    peer = web_peer(tmp_path, dicomweb_token_file=token)
    asked = answering(monkeypatch, httpx.Response(204))
    for word in ("one", "two"):
        token.write_text(f"{word}\n")
        assert qido.count_instances(peer, "1.2.3") is None
    assert [request.headers["authorization"] for request in asked] == ["Bearer one", "Bearer two"]
    assert asked[0].url.params["StudyInstanceUID"] == "1.2.3"
    token.unlink()
    with pytest.raises(TransientError, match=r"token of peer PACS in .* cannot be read"):
        qido.count_instances(peer, "1.2.3")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"[{}]", b"not json", b'[{"00201208": {"vr": "IS"}}]', b'[{"00201208": {"Value": ["x"]}}]',
     b"[" + b" " * 2_000_000 + b"]", b'[{"00201208":{"Value":[1]}},{"00201208":{"Value":[1]}}]'],
)  # fmt: skip
def test_an_answer_that_does_not_say_gives_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    answering(monkeypatch, httpx.Response(200, content=content))
    assert qido.count_instances(web_peer(tmp_path), "1.2.3") is None


@pytest.mark.parametrize(
    "answer", [httpx.Response(401), httpx.Response(500), httpx.Response(302), httpx.ReadTimeout("slow")]
)
def test_a_service_that_refuses_or_is_silent_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(TransientError, match="peer PACS"):
        qido.count_instances(web_peer(tmp_path), "1.2.3")
