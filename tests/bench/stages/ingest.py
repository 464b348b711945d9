"""Images over the network into files: this node against DCMTK's storescp and Orthanc, from one storescu."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

from dicomnode.config import load_settings
from dicomnode.deliver.sender import echo
from dicomnode.errors import TransientError
from dicomnode.records.db import Database, migrate
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings
from dicomnode.spool import data_set_sha256
from tests.bench.disk import written_alone
from tests.bench.harness import AtLeast, Case, Contender, Reading, Run, Setting, Stage
from tests.bench.needs import program
from tests.dicomnode.parts import image, save, write_config
from tests.real_parts import require_program
from tests.system.orthanc import Orthanc

NODE, STORESCP, ORTHANC = "dicomnode receive", "DCMTK storescp", "Orthanc"
TWO_RECEIVERS = "two processes of dicomnode receive"
BARE = "reading and answering alone, in Python"
BARE_DURABLE = "the same, and each written and synchronised"
"""See `tests/bench/bare.py`; with as many interpreters as associations."""
DURABILITY = "the disk alone: one write and one fdatasync for each"
"""What no receiver that keeps its word can be faster than, on top of the network."""
IMAGES_PER_ASSOCIATION = 8
"""In the cases of growth."""
NODE_AE_TITLE = "LESIONNODE"
START_TIMEOUT_S = 120.0
WHOLE_TIMEOUT_S = 300.0
FAST_SOCKETS = {"TCP_NODELAY": "1"}
"""Without it DCMTK waits 40 ms for each object; see docs/field-notes.md."""


@dataclass(frozen=True)
class Sent:
    """What each round sends: one folder for each association."""

    folders: tuple[Path, ...]
    digests: frozenset[str]
    """SHA-256 of each data set."""


def cases(setting: Setting) -> Iterator[Case]:
    """CT and MR sizes, over one association and over four at once; in the smallest one of each."""
    for name, side, count, at_once in (
        ("CT, 0.53 MB", 512, setting.choose(4, 100, 500), setting.choose((1,), (1, 4), (1, 4))),
        ("MR, 34 kB", 128, setting.choose(4, 400, 2000), setting.choose((4,), (1, 4), (1, 4))),
    ):
        for associations in at_once:
            folder = setting.folder / f"{side}-{associations}"
            sent = _make(folder / "sent", side, count, associations)
            yield _case(f"{count} x {name}, {associations} association(s)", folder, sent, associations)
            shutil.rmtree(folder)
    for associations in setting.choose((2,), (1, 8, 32), (1, 4, 16, 64)):
        folder = setting.folder / f"growth-{associations}"
        sent = _make(folder / "sent", 128, IMAGES_PER_ASSOCIATION * associations, associations)
        yield _growth(folder, sent, associations)
        shutil.rmtree(folder)


def _case(title: str, folder: Path, sent: Sent, associations: int) -> Case:
    dcmtk, orthanc = program("storescp", "dcmtk"), program("Orthanc", "orthanc")
    arguments = ("--fork",) if associations > 1 else ()
    storescp = " ".join((STORESCP, *arguments))
    return Case(
        title,
        (
            *(
                Contender(name, partial(_node, folder / f"node{processes}", sent, processes), (dcmtk,))
                for processes, name in enumerate((NODE, TWO_RECEIVERS)[:associations], 1)
            ),
            Contender(storescp, partial(_storescp, folder / "storescp", sent, arguments), (dcmtk,)),
            Contender(ORTHANC, partial(_orthanc, folder / "orthanc", sent), (dcmtk, orthanc)),
            Contender(BARE, partial(_bare, folder / "reading", sent, writes=False), (dcmtk,)),
            Contender(BARE_DURABLE, partial(_bare, folder / "writing", sent, writes=True), (dcmtk,)),
            *(
                (Contender(DURABILITY, partial(written_alone, folder / "disk", sent.folders)),)
                if associations == 1
                else ()
            ),
        ),
        storescp,
        (AtLeast(NODE, 1.3 if associations > 1 else 1.0, storescp), AtLeast(NODE, 3.0, ORTHANC)),
        count=len(sent.digests),
        unit="images",
    )


def _growth(folder: Path, sent: Sent, associations: int) -> Case:
    """Ever more senders at once, each with the same few images: what an association costs."""
    dcmtk = program("storescp", "dcmtk")
    storescp = f"{STORESCP} --fork"
    return Case(
        f"{associations} association(s) at once, {IMAGES_PER_ASSOCIATION} images each",
        (
            Contender(NODE, partial(_node, folder / "node", sent), (dcmtk,)),
            Contender(storescp, partial(_storescp, folder / "storescp", sent, ("--fork",)), (dcmtk,)),
        ),
        storescp,
        count=len(sent.digests),
        unit="images",
        at=("associations", associations),
    )


def _make(folder: Path, side: int, count: int, associations: int) -> Sent:
    noise = np.random.default_rng(1)
    study, digests = generate_uid(), set()
    for number in range(count):
        pixels = noise.integers(0, 4000, side * side, dtype=np.uint16).tobytes()
        sent = image(StudyInstanceUID=study, InstanceNumber=number, Rows=side, Columns=side, PixelData=pixels)
        path = save(sent, folder / str(number % associations) / f"{number}.dcm")
        digests.add(data_set_sha256(path))
    return Sent(tuple(folder / str(number) for number in range(associations)), frozenset(digests))


def _send(sent: Sent, called_ae_title: str, port: int) -> float:
    """Seconds from the start of all senders to the end of the last; raises when one of them fails."""
    command = [require_program("storescu"), "+sd", "-aet", "PACS", "-aec", called_ae_title, "127.0.0.1"]
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            [*command, str(port), str(folder)],
            env={**os.environ, **FAST_SOCKETS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in sent.folders
    ]
    failed = [sender.args for sender in senders if sender.wait()]
    took_s = time.perf_counter() - started
    if failed:
        raise RuntimeError(f"storescu failed: {failed}")
    return took_s


@contextmanager
def _node(folder: Path, sent: Sent, processes: int = 1) -> Iterator[Run]:
    """Receivers as `dicomnode serve` starts them, with their database and spool in `folder`."""
    folder.mkdir(parents=True)
    port = free_port()
    config = write_config(folder, port=port)
    more = f"[listener]\nprocesses = {processes}\nmaximum_associations = {2 * len(sent.folders) + 1}\n"
    config.write_text(config.read_text().replace("[listener]\n", more))
    settings = load_settings(config)
    migrate(Database(settings.database_url))
    command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(config)]
    with (folder / "log").open("wb") as log:
        receivers = [subprocess.Popen(command, stdout=log, stderr=log) for _ in range(processes)]
    file = settings.node.data / "node.sqlite"

    def run() -> Reading:
        _forget(file, settings.spool / "studies")
        took_s = _send(sent, NODE_AE_TITLE, port)
        started = time.perf_counter()
        _wait_for(lambda: _row_count(file) == len(sent.digests), "every image has its row")
        rows_after_s = time.perf_counter() - started
        _check(sent, settings.spool / "studies", data_set_sha256)
        return Reading(took_s, {"last row after (s)": rows_after_s})

    try:
        peer = PeerSettings(name="node", ae_title=NODE_AE_TITLE, host="127.0.0.1", port=port)
        started = (folder / "log").read_text
        _wait_for(lambda: started().count("listener_started") == processes, "every receiver has its port")
        _wait_for(partial(_answers, peer), "a receiver answers")
        yield run
    finally:
        for receiver in receivers:
            receiver.terminate()
        for receiver in receivers:
            receiver.wait(START_TIMEOUT_S)


@contextmanager
def _storescp(folder: Path, sent: Sent, arguments: Sequence[str]) -> Iterator[Run]:
    folder.mkdir(parents=True)
    port = free_port()

    def run() -> Reading:
        for path in folder.iterdir():
            path.unlink()
        took_s = _send(sent, "STORESCP", port)
        _check(sent, folder, None)  # it encodes data sets anew
        return Reading(took_s)

    with _receiving([require_program("storescp"), *arguments, "-od", str(folder), str(port)], port):
        yield run


@contextmanager
def _bare(folder: Path, sent: Sent, *, writes: bool) -> Iterator[Run]:
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bare", str(port), *([str(folder)] if writes else [])]
    with _receiving(command, port):
        yield lambda: Reading(_send(sent, "BARE", port))


@contextmanager
def _receiving(command: Sequence[str], port: int) -> Iterator[None]:
    """A receiver that takes any title, from when it answers."""
    receiver = subprocess.Popen(command, env={**os.environ, **FAST_SOCKETS})
    try:
        peer = PeerSettings(name="receiver", ae_title="ANY", host="127.0.0.1", port=port)
        _wait_for(partial(_answers, peer), f"{command[0]} answers")
        yield
    finally:
        receiver.terminate()
        receiver.wait(START_TIMEOUT_S)


@contextmanager
def _orthanc(folder: Path, sent: Sent) -> Iterator[Run]:
    orthanc = Orthanc(folder, node_port=free_port(), forward=False)
    orthanc.start()

    def run() -> Reading:
        for study in orthanc.get("/studies"):
            orthanc.delete(f"/studies/{study}")
        took_s = _send(sent, "ORTHANC", orthanc.dicom_port)
        count = orthanc.get("/statistics")["CountInstances"]
        if count != len(sent.digests):
            raise RuntimeError(f"Orthanc kept {count} of {len(sent.digests)} images")
        return Reading(took_s)

    try:
        yield run
    finally:
        orthanc.stop()


def _forget(database: Path, studies: Path) -> None:
    """Make every image new again."""
    with closing(sqlite3.connect(database, timeout=60.0)) as connection:
        connection.execute("DELETE FROM instances")
        connection.execute("DELETE FROM studies")
        connection.commit()
    for study in studies.iterdir():
        shutil.rmtree(study)


def _row_count(database: Path) -> int:
    with closing(sqlite3.connect(database, timeout=60.0)) as connection:
        count: int = connection.execute("SELECT count(*) FROM instances").fetchone()[0]
    return count


def _check(sent: Sent, folder: Path, digest: Callable[[Path], str] | None) -> None:
    """Every image is there, byte for byte where `digest` says what to compare."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {digest(path) if digest else hashlib.sha256(path.name.encode()).hexdigest() for path in files}
    if len(found) != len(sent.digests) or (digest and found != sent.digests):
        raise RuntimeError(f"{folder} holds {len(found)} of {len(sent.digests)} images, or others")


def _answers(peer: PeerSettings) -> bool:
    try:
        echo("PACS", peer)
    except TransientError:
        return False
    return True


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WHOLE_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {WHOLE_TIMEOUT_S:g} s: {what}")
        time.sleep(0.005)


STAGE = Stage(
    "ingest",
    "Receiving",
    "The same images from DCMTK's storescu to each receiver on the same disk, until the sender has "
    "released its last association. The node has each image on the disk, synchronised, before it "
    "answers, and its rows follow (*last row after*); storescp and Orthanc do not synchronise, and "
    "storescp keeps no records. A sender waits for each answer before it sends the next image, so what the "
    "disk alone takes is a floor for each of them. After each round the files are counted, and compared byte "
    "for byte with what was sent where the receiver keeps data sets as they came. TCP_NODELAY is set for "
    "all.",
    cases,
    rounds=5,
)
