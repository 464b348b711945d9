"""The table of docs/reliability.md about faults of disk and database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.crash.page import run_details
from tests.faults.faults import QUICK, Fault, Locked
from tests.faults.rounds import Outcome

CODES = {"Success": "0000", "Refused: OutOfResources": "A700", "Unknown Status: 0x110": "0110"}
ROLES = {"receive": "receiver", "record": "recorder", "housekeep": "housekeeping", "work": "worker"}


def faults_section(outcomes: Sequence[Outcome], command: str, duration_s: float) -> str:
    """What became of the studies during each fault."""
    held = sum(not outcome.complaints for outcome in outcomes)
    points = sum(len(outcome.trouble.points) for outcome in outcomes)
    lines = [
        f"{points} faults in {len(outcomes)} studies; after {held} of them everything held. "
        f"{run_details(command, duration_s)}\n",
        "| fault | what is wrong meanwhile | begun | noticed by | answers of the receiver | broken |",
        "|---|---|---|---|---|---|",
        *(_row(fault, [o for o in outcomes if o.trouble.fault.name == fault.name]) for fault in faults()),
    ]
    complaints = [line for outcome in outcomes for line in outcome.complaints]
    if complaints:
        lines += ["", "What the checker complained about:", "", *(f"- {line}" for line in complaints)]
    return "\n".join(lines) + "\n"


def faults() -> list[Fault]:
    """One of each kind, in the order of the table."""
    return [*(make() for make in QUICK), Locked()]


def _row(fault: Fault, outcomes: Sequence[Outcome]) -> str:
    begun = sum(len(outcome.trouble.points) for outcome in outcomes)
    role = {point.name: ROLES[point.role] for outcome in outcomes for point in outcome.trouble.points}
    noticed = Counter(role[name] for outcome in outcomes for name in outcome.noticed)
    answers: Counter[str] = sum((Counter(outcome.answers) for outcome in outcomes), Counter())
    answered = ", ".join(f"{answers[words]} with {code}" for words, code in CODES.items() if answers[words])
    told = ", ".join(f"{who} at {count}" for who, count in sorted(noticed.items())) or "nobody"
    broken = sum(bool(outcome.complaints) for outcome in outcomes)
    return f"| `{fault.name}` | {fault.does} | {begun} | {told} | {answered} | {broken} |"
