"""How many events a second go into one chain with 1, 4 and 16 writing processes; prints a table.

python -m tests.bench.audit_writers [DATABASE_URL]

Without a URL: SQLite in a temporary folder. The database of a URL is migrated and written to.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier

from sqlalchemy import func, select

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database, migrate
from dicomnode.records.tables import AuditRow

SECONDS = 8.0


def write(url: str, number: int, start: Barrier) -> None:
    """One event a transaction, as the receiver does, for a while."""
    database = Database(url)
    audit, subject = Audit(f"writer {number}"), Subject("1.2.3", "1.2.3.4", "1.2.3.4.5")
    with database.snapshot() as session:
        session.scalar(select(AuditRow.id).limit(1))
    start.wait()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with database.transaction() as session:
            audit.record(session, Event.INSTANCE_RECEIVED, subject, calling_ae_title="PACS", sha256="0" * 64)


def measure(url: str, writers: int) -> tuple[float, bool]:
    """Events a second, and whether the chain holds."""
    database = Database(url)
    start = multiprocessing.Barrier(writers + 1)
    processes = [
        multiprocessing.Process(target=write, args=(url, number, start)) for number in range(writers)
    ]
    with database.snapshot() as session:
        before = session.scalar(select(func.count()).select_from(AuditRow)) or 0
    for process in processes:
        process.start()
    start.wait()
    began = time.monotonic()
    for process in processes:
        process.join()
    seconds = time.monotonic() - began
    with database.snapshot() as session:
        check = verify_chain(session)
    database.engine.dispose()
    return (check.event_count - before) / seconds, not check.faults


def main(url: str) -> None:
    """Print the table."""
    migrate(Database(url))
    for writers in (1, 4, 16):
        rate, holds = measure(url, writers)
        state = "one unbroken chain" if holds else "BROKEN"
        print(f"{url.partition(':')[0]:20} {writers:3} writers {rate:8.0f} events/s  {state}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"sqlite:///{folder}/node.sqlite")
