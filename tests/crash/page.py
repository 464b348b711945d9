"""docs/reliability.md: its introduction is here; the commands that it names write the rest.

The promises are kept by hand in the page itself, and `tests/test_docs.py` looks for each of their tests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.bench.machine import commit, today
from tests.crash.explorer import Outcome
from tests.crash.points import ROWS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
INTRODUCTION = """\
# Reliability

What the node promises, which test would notice a broken promise, and what happened when we killed it. The
figures below are written by the commands that measured them, never by hand.

- `make crash` runs a node with a real Orthanc as its PACS and a real `storescu` as its sender, kills it
  with SIGKILL at every point of the table, and lets it come back. The points are planted from outside
  (`tests/crash`); the node has no code for it. Each point is tried at least twice: the process at that
  point dies alone, and everything dies at once; a study is killed once in each phase of its path. Then
  follow kills at random times, six in every study.
- After each study an independent checker (`tests/crash/invariants.py`) reads the database with plain SQL,
  the spool and Orthanc's REST answers, and imports nothing of the node. It demands: every acknowledged
  image is there with the digest of what was sent; every study has exactly one result set in the PACS,
  byte for byte the stored one; no study, job or delivery is stuck; the audit chain is whole, and tells of
  every row exactly once.
- A killed process does not lose what the operating system has already taken. That the order of writes
  would survive a loss of power too (file, folders and database are synced before the success is answered)
  is shown by `tests/crash/test_durability.py` on the system calls of a running receiver.
- `make faults` does to disk and database of such a node what happens to them: full, failing, read-only,
  locked by another program, moved away and back (`tests/faults`). A process is stopped just before it
  writes, the fault begins, the process goes on into it, and the fault ends. The sender must be told A700 or
  0110 or nothing at all, and once the fault is over the same checker must be content.
- `make crowd` sends 500 tiny studies to a node on PostgreSQL whose three workers are killed at random; on a
  Ray cluster of four machines (all on this one) also its actors and whole machines. The same checker judges.
- `make soak` sends many studies from many senders at once while workers are killed.
- `make mutate` breaks the promises in a copy of the code, one by one, and shows which test notices.

A few of the kills and faults are part of `make test`.
"""
SECTIONS = {
    "promises": "Promises",
    "crash": "Kills",
    "faults": "Faults of disk and database",
    "crowd": "Workers beyond one machine",
    "soak": "Soak",
}
NOT_RUN = "Not run yet.\n"


def write_section(name: str, body: str, page: Path = PAGE) -> None:
    """Replace one section; the introduction is written anew, the other sections stay."""
    old = page.read_text("utf-8") if page.exists() else ""
    bodies = {key: body if key == name else section(key, old) for key in SECTIONS}
    parts = (f"## {SECTIONS[key]}\n\n{text}" for key, text in bodies.items())
    page.write_text("\n".join((INTRODUCTION, *parts)), "utf-8")


def section(name: str, text: str) -> str:
    """The body of one section of a page."""
    found = re.search(rf"^## {SECTIONS[name]}\n\n(.*?)(?=\n^## |\Z)", text, re.M | re.S)
    return found.group(1) if found else NOT_RUN


def crash_section(outcomes: Sequence[Outcome], command: str, duration_s: float) -> str:
    """What happened at every point."""
    killed = Counter(name for outcome in outcomes for name in outcome.killed)
    broken = Counter(name for outcome in outcomes if outcome.complaints for name in outcome.killed)
    held = sum(not outcome.complaints for outcome in outcomes)
    lines = [
        f"{killed.total()} kills in {len(outcomes)} studies; after {held} of them everything held. "
        f"{run_details(command, duration_s)}\n",
        "| point | dies | kills | broken | what dying there proves |",
        "|---|---|---|---|---|",
        *(
            f"| `{row.name}` | {row.role} | {killed[row.name]} | {broken[row.name]} | {row.proves} |"
            for row in ROWS
        ),
    ]
    complaints = [line for outcome in outcomes for line in outcome.complaints]
    if complaints:
        lines += ["", "What the checker complained about:", "", *(f"- {line}" for line in complaints)]
    return "\n".join(lines) + "\n"


def run_details(command: str, duration_s: float) -> str:
    """When, by which command, on which commit and for how long."""
    return f"`{command}`, {today()}, commit {commit()}, {duration_s / 60:.0f} minutes."
