"""`make soak`: many senders at once while workers are killed; then the independent checker has the word."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.temporary import free_port
from tests.crash.invariants import Sent, complaints
from tests.crash.page import PAGE, run_details, section, write_section
from tests.soak.gauges import Reading, Watch, growth, memory_early_and_late_mb, read, told
from tests.soak.hospital import OPEN_WORK, Hospital
from tests.system.node import Node, wait_for
from tests.system.orthanc import AE, Orthanc

SPREAD = (0.5, 1.5)
HEADER = """\
Memory and open files of the receiver must stay flat while the load lasts; at rest it must have no more
files open than before, beside the database connections that it keeps.

| run | images | worker kills | images/s | memory | open at rest before | after | longest queue | result |
|---|---|---|---|---|---|---|---|---|
"""


class Killer:
    """Kills the worker again and again, at random times around `every_s` apart."""

    def __init__(self, node: Node, every_s: float, chance: random.Random) -> None:
        self.kills = 0
        self._node, self._every_s, self._chance = node, every_s, chance
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._every_s * self._chance.uniform(*SPREAD)):
            try:
                os.kill(self._node.process_of("work"), signal.SIGKILL)
            except (AssertionError, ProcessLookupError):  # it is dead just now
                continue
            self.kills += 1


class Soak:
    """One node, one Orthanc, many senders."""

    def __init__(self, folder: Path, studies: int, seed: int) -> None:
        models, port = folder / "models", free_port()
        write_bundle(models / "ct", name="threshold-ct")
        write_bundle(models / "mr", name="threshold-mr", modality="MR", intensity_unit="arbitrary")
        self.orthanc = Orthanc(folder / "orthanc", port, forward=False).start()
        self.node = Node(
            folder / "node",
            models,
            AE,
            self.orthanc.dicom_port,
            {"CT": "threshold-ct", "MR": "threshold-mr"},
            port=port,
            quiet_period_s=600.0,
            maximum_attempts=20,
            maximum_losses=20,
            maximum_associations=64,
        ).start()
        self.hospital = Hospital(folder / "sent", self.orthanc, port, studies, seed)
        self.chance = random.Random(seed)

    def run(self, senders: int, kill_every_s: float, patience_s: float) -> tuple[str, list[str]]:
        """Send, kill, wait until all is drained. Returns the row of the page, and what is wrong."""
        receiver = self.node.process_of("receive")
        before, started = self._reading(receiver), time.monotonic()
        with Killer(self.node, kill_every_s, self.chance) as killer, Watch(receiver, self.open_work) as watch:
            self.hospital.send_everything(senders)
            sent_s = time.monotonic() - started
            wait_for(lambda: self.open_work() == 0, "everything is drained", patience_s)
        after = self._reading(receiver)
        sent = Sent(self.hospital.acknowledged, frozenset(self.hospital.routed))
        url = f"http://127.0.0.1:{self.orthanc.http_port}"
        found = complaints(self.node.folder / "data", sent, url) + growth(watch.readings, before, after)
        early_mb, late_mb = memory_early_and_late_mb(watch.readings)
        images = len(self.hospital.acknowledged)
        cells = (
            str(images),
            str(killer.kills),
            f"{images / sent_s:.0f}",
            f"{early_mb:.0f} MB early, {late_mb:.0f} MB late",
            f"{told(before.files)}; {before.threads} threads",
            f"{told(after.files)}; {after.threads} threads",
            str(watch.longest_queue),
            f"{len(found)} complaints" if found else "drained, nothing lost",
        )
        return " | ".join(cells), found

    def open_work(self) -> int:
        """Studies, jobs and deliveries that are not at rest."""
        file = self.node.folder / "data" / "node.sqlite"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            return int(database.execute(OPEN_WORK).fetchone()[0])

    def stop(self) -> None:
        """Stop everything."""
        self.node.stop()
        self.orthanc.stop()

    @staticmethod
    def _reading(pid: int) -> Reading:
        reading = read(pid)
        assert reading is not None, "the receiver died, and nobody killed it"
        return reading


def main() -> int:
    """Run, print, add a row to the page, and fail when anything was lost or grew."""
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--studies", type=int, default=3000)
    parser.add_argument("--senders", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between kills, about")
    parser.add_argument("--patience", type=float, default=7200.0, help="seconds for the queue to drain")
    arguments = parser.parse_args()
    started = time.monotonic()
    soak = Soak(Path(tempfile.mkdtemp(prefix="soak-")), arguments.studies, arguments.seed)
    try:
        row, found = soak.run(arguments.senders, arguments.kill_every, arguments.patience)
    finally:
        soak.stop()
    print(row, *found, sep="\n")
    command = f"make soak ARGS='--studies {arguments.studies} --senders {arguments.senders} "
    command += f"--kill-every {arguments.kill_every:g}'"
    old = section("soak", PAGE.read_text("utf-8"))
    rows = old if old.startswith(HEADER) else HEADER
    write_section("soak", f"{rows}| {run_details(command, time.monotonic() - started)} | {row} |\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
