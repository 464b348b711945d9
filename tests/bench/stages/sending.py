"""Sending files by C-STORE, against DCMTK's storescu and dcmsend, to the same storescp.

Not measured: results as they are made; images of the same sizes stand in for a segmentation and its reports.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.sender import echo, send
from dicomnode.errors import TransientError
from dicomnode.records.db import Database, migrate
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import PeerSettings
from tests.bench import chest_ct
from tests.bench.harness import AtLeast, Case, Contender, Reading, Run, Setting, Stage, command, simply, timed
from tests.bench.needs import program
from tests.dicomnode.outbox import Outbox
from tests.dicomnode.parts import settings_in
from tests.real_parts import find_program
from tests.system.node import wait_for

WHAT = """\
Files over one association to DCMTK's storescp, which keeps nothing (--ignore). "node" is what sends results,
on an association that it opens and releases within the clock; it reads, offers and checks each file as for a
delivery. "node, with its records" does all that a delivery is: it claims the objects, sends them, and writes
down and audits what became of each, on SQLite. storescu and dcmsend are programs, timed with their start.
TCP_NODELAY is set for all of DCMTK, which else waits 40 ms for every object."""
RESPONSE_TIMEOUT_S = 60.0
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
DCMTK = (program("storescp", "dcmtk"), program("storescu", "dcmtk"), program("dcmsend", "dcmtk"))


def cases(setting: Setting) -> Iterator[Case]:
    """One result, then images of half a megabyte, and many small ones."""
    yield _case("one result: 0.5 MB and 2 x 34 kB", _result_set(setting), free_port(), setting.folder)
    for count, side in setting.choose(((4, 64),), ((50, 512), (200, 128)), ((500, 512), (2000, 128))):
        folder = setting.folder / f"{count}"
        seen = chest_ct.volume(chest_ct.lesion_map(0, count, side))
        yield _case(f"{count} images of {side} x {side}", chest_ct.write(seen, folder), free_port())


def _result_set(setting: Setting) -> list[Path]:
    paths = []
    for count, side in ((1, 512), (2, 128)):
        seen = chest_ct.volume(chest_ct.lesion_map(0, count, side))
        paths += chest_ct.write(seen, setting.folder / f"result {side}")
    return paths


def _case(name: str, paths: Sequence[Path], port: int, recorded_in: Path | None = None) -> Case:
    to = ["localhost", str(port)]
    recorded = () if recorded_in is None else (_delivery(recorded_in, paths, port),)
    contenders = (
        Contender("node", lambda: _receiving(port, paths), DCMTK),
        *recorded,
        command("storescu", ["storescu", *to, *paths], DCMTK, ENVIRONMENT),
        command("dcmsend", ["dcmsend", *to, *paths], DCMTK, ENVIRONMENT),
    )
    goals = (AtLeast("node", 0.8, "storescu"), AtLeast("node", 0.8, "dcmsend"))
    return Case(name, contenders, "storescu", goals, len(paths), "images")


@contextmanager
def _receiving(port: int, paths: Sequence[Path]) -> Iterator[Run]:
    """Everybody's receiver; it is opened first, with the node as a contender."""
    found = find_program("storescp")
    assert found is not None
    peer = PeerSettings(name="PACS", ae_title="STORESCP", host="localhost", port=port)
    receiver = subprocess.Popen([found, "--ignore", str(port)], env=ENVIRONMENT)
    try:
        wait_for(lambda: _answers(peer), "storescp answers")
        with simply("node", lambda: _send(peer, list(paths))).open() as run:
            yield run
    finally:
        receiver.terminate()
        receiver.wait()


def _delivery(folder: Path, paths: Sequence[Path], port: int) -> Contender:
    """Everything between due and done, of the same files each time."""

    @contextmanager
    def opened() -> Iterator[Run]:
        settings = settings_in(folder, peer_port=port)
        database = Database(settings.database_url)
        migrate(database)
        outbox = Outbox(settings, database, folder)
        for path in paths:
            outbox.add_file(path)

        def run() -> Reading:
            outbox.change(state="waiting", attempt=0, delivered_at=None)
            seconds, _ = timed(outbox.push)
            if outbox.states() != ["delivered"] * len(paths):
                raise ValueError(f"deliveries are {outbox.states()}")
            return Reading(seconds)

        yield run

    return Contender("node, with its records", opened, DCMTK)


def _answers(peer: PeerSettings) -> bool:
    try:
        echo("NODE", peer)
    except TransientError:
        return False
    return True


def _send(peer: PeerSettings, paths: list[Path]) -> None:
    fates = [response.fate for response in send("NODE", peer, paths, RESPONSE_TIMEOUT_S)]
    if fates != [Fate.ACCEPTED] * len(paths):
        raise ValueError(f"of {len(paths)} files {fates.count(Fate.ACCEPTED)} were accepted")


STAGE = Stage("sending", "Sending", WHAT, cases, rounds=5)
