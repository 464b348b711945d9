"""How long each page of the web page takes on a large node. Prints figures; judges nothing.

    python -m tests.bench.web_pages [STUDIES]

100 000 studies (2 000 000 audit events) unless told otherwise. Times are those of the application alone: a
request in, the whole answer out, in this process, the middle of nine and the slowest.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.large_node import EVENTS_PER_STUDY, fill, study_uid
from tests.dicomnode.web.browsing import Browser, Page

STUDIES = 100_000
REPEATS = 9


def addresses(count: int) -> dict[str, str]:
    """What is asked for, by how a person would call it."""
    middle = count // 2
    return {
        "now": "/",
        "studies, newest": "/studies",
        "studies, a page from the middle": f"/studies?after=20260601T000000.000000_{study_uid(middle)}",
        "studies, parked": "/studies?state=parked",
        "studies, one day": "/studies?since=2026-06-01&until=2026-06-01",
        "find an accession number": f"/studies?find=ACC-{middle}",
        "find a patient ID": f"/studies?find=PAT-{middle // 3}",
        "find a result by UID": f"/studies?find={study_uid(middle)}.9.0",
        "find nothing": "/studies?find=unknown",
        "one study": f"/studies/{study_uid(middle)}",
        "dead letters": "/letters",
        "audit, newest": "/audit",
        "audit, a page from the middle": f"/audit?before={middle * EVENTS_PER_STUDY}",
        "audit, one kind": "/audit?event=job_started",
        "audit, failures": "/audit?outcome=failure",
        "audit, one peer and day": "/audit?peer=PACS&since=2026-06-01&until=2026-06-01",
        "audit, one model": "/audit?model=ct-lung-nodule",
        "configuration": "/configuration",
    }


def times_ms(browser: Browser, address: str) -> list[float]:
    """Several requests of one page, the first one included."""
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        answer = browser.get(address)
        taken.append(1000 * (time.perf_counter() - started))
        assert answer.status_code in (200, 303), (address, answer.status_code)
    return taken


def main() -> None:
    """Fill a database, and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder))
        started = time.perf_counter()
        fill(page.database, count)
        size_mb = (Path(folder) / "data" / "node.sqlite").stat().st_size / 1e6
        print(f"{count} studies, {count * EVENTS_PER_STUDY} events, SQLite of {size_mb:.0f} MB,", end=" ")
        print(f"filled in {time.perf_counter() - started:.0f} s\n")
        print("| page | middle (ms) | slowest (ms) |\n|---|---|---|")
        browser = page.logged_in()
        for name, address in addresses(count).items():
            taken = times_ms(browser, address)
            print(f"| {name} | {statistics.median(taken):.0f} | {max(taken):.0f} |", flush=True)


if __name__ == "__main__":
    main()
