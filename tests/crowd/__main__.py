"""`make crowd`: hundreds of tiny studies for three workers on PostgreSQL, which are killed at random times.

    python -m tests.crowd --engine local|ray [--studies N] [--kill-every S] [--write]

Afterwards the independent checker has the word. With `--write` the row of the engine in docs/reliability.md
is replaced.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg

from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.temporary import free_port
from tests.crash.invariants import Sent, complaints
from tests.crash.page import PAGE, run_details, section, write_section
from tests.crowd.workers import COUNT, ENGINES, Workers
from tests.postgres import running_cluster
from tests.soak.hospital import OPEN_WORK, Hospital, Kind
from tests.system.node import Node
from tests.system.orthanc import AE, Orthanc

TINY = (Kind("tiny CT", "CT", (16.0, 3.0, 3.0), 1),)
RECORDS = "records"
SPREAD = (0.5, 1.5)
MOST_KILLS = 50
LOOK_S = 0.5
CLEARING_S = 60.0
"""What a killed worker left half-written goes when the next one starts."""
HEADER = f"""\
{COUNT} workers on PostgreSQL, whose commits are durable; what is killed at random comes back by itself.

| workers | studies | killed | jobs tried again | studies a minute | result | run |
|---|---|---|---|---|---|---|
"""
SUCCEEDED = "SELECT count(*) FROM jobs WHERE state = 'succeeded'"
RECORDED = "SELECT count(*) FROM instances"
TRIED_AGAIN = "SELECT count(*) FROM audit_events WHERE event IN ('job_recovered', 'job_retried')"


class Crowd:
    """One node on PostgreSQL with three workers, its PACS, and those who send."""

    def __init__(self, folder: Path, workers: Workers, url: str, studies: int, seed: int) -> None:
        models, port = folder / "models", free_port()
        write_bundle(models / "ct", name="threshold-ct")
        self._url, self._workers, self._chance = url, workers, random.Random(seed)
        self.orthanc = Orthanc(folder / "orthanc", port, forward=False).start()
        self.node = Node(
            folder / "node",
            models,
            AE,
            self.orthanc.dicom_port,
            {"CT": "threshold-ct"},
            settings_text=f'[database]\nurl = "{url}"\n{workers.settings_text}',
            devices=("cpu",) * COUNT,
            environment={"OMP_NUM_THREADS": "1"},
            port=port,
            quiet_period_s=600.0,
            maximum_attempts=20,
            maximum_losses=20,
        ).start()
        self.hospital = Hospital(folder / "sent", self.orthanc, port, studies, seed, TINY)
        self.killed: Counter[str] = Counter()
        self._jobs_between_kills = studies // MOST_KILLS

    def run(self, senders: int, kill_every_s: float, patience_s: float) -> list[str]:
        """Send and kill, until nothing is left to do. Returns what is wrong."""
        sending = threading.Thread(target=self.hospital.send_everything, args=(senders,))
        sending.start()
        self._kill_until(lambda: not sending.is_alive() and self._is_drained(), kill_every_s, patience_s)
        sending.join()
        sent = Sent(self.hospital.acknowledged, frozenset(self.hospital.routed))
        orthanc_url = f"http://127.0.0.1:{self.orthanc.http_port}"
        data, end = self.node.folder / "data", time.monotonic() + CLEARING_S
        while (found := complaints(data, sent, orthanc_url, self._url)) and time.monotonic() < end:
            time.sleep(LOOK_S)
        return found

    def _is_drained(self) -> bool:
        """Rows follow the answers of the receiver, so their number is looked at too."""
        return self._count(RECORDED) == len(self.hospital.acknowledged) and self._count(OPEN_WORK) == 0

    def tried_again(self) -> int:
        """How often a job was given to a worker once more."""
        return self._count(TRIED_AGAIN)

    def stop(self) -> None:
        """Stop node and PACS."""
        self.node.stop()
        self.orthanc.stop()

    def _count(self, query: str) -> int:
        with psycopg.connect(self._url) as connection:
            found = connection.execute(query.encode()).fetchone()
        assert found is not None
        return int(found[0])

    def _kill_until(self, done: Callable[[], bool], every_s: float, patience_s: float) -> None:
        """On the main thread, since only there a new machine can join a Ray cluster.

        Between two kills some jobs succeed, however slow the machine is on which workers start again.
        """
        end, wanted = time.monotonic() + patience_s, 0
        while not _within(every_s * self._chance.uniform(*SPREAD), done):
            assert time.monotonic() < end, f"not drained within {patience_s:.0f} s"
            if (succeeded := self._count(SUCCEEDED)) < wanted:
                continue
            wanted = succeeded + self._jobs_between_kills
            what = self._chance.choice(list(self._workers.kills))
            self.killed[what] += self._workers.kills[what](self.node, self._chance)


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    """Whether it is done before so much time has passed."""
    end = time.monotonic() + seconds
    while not (is_done := done()) and time.monotonic() < end:
        time.sleep(LOOK_S)
    return is_done


def row_of(crowd: Crowd, engine: str, studies: int, found: list[str], seconds: float, run: str) -> str:
    """A line of the table."""
    killed = ", ".join(f"{count} {what}s" for what, count in sorted((+crowd.killed).items()))
    result = f"{len(found)} complaints" if found else "each result once, nothing lost"
    cells = (engine, studies, killed, crowd.tried_again(), f"{60 * studies / seconds:.0f}", result, run)
    return f"| {' | '.join(map(str, cells))} |\n"


def write_row(engine: str, row: str, page: Path = PAGE) -> None:
    """Put the row of an engine into the page, in place of an older one."""
    rows = [line for line in section("crowd", page.read_text("utf-8")).splitlines() if line.startswith("| ")]
    others = [f"{line}\n" for line in rows[1:] if not line.startswith(f"| {engine} |")]
    write_section("crowd", HEADER + "".join(sorted([*others, row])), page)


def main() -> int:
    """Run, print, and fail when anything was lost, done twice or stuck."""
    parser = argparse.ArgumentParser(prog="python -m tests.crowd")
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-every", type=float, default=15.0, help="seconds between kills, about")
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds for the queue to drain")
    parser.add_argument("--write", action="store_true", help="write the row into docs/reliability.md")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crowd-")))
        cluster = stack.enter_context(running_cluster({}))
        cluster.create_database(RECORDS)
        workers = stack.enter_context(ENGINES[asked.engine]())
        crowd = Crowd(folder, workers, cluster.url(RECORDS), asked.studies, asked.seed)
        stack.callback(crowd.stop)
        started = time.monotonic()
        found = crowd.run(asked.senders, asked.kill_every, asked.patience)
        seconds = time.monotonic() - started
        command = f"python -m tests.crowd --engine {asked.engine} --studies {asked.studies}"
        command += f" --kill-every {asked.kill_every:g}"
        row = row_of(crowd, asked.engine, asked.studies, found, seconds, run_details(command, seconds))
    print(row, *found, sep="\n")
    if asked.write:
        write_row(asked.engine, row)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
