"""`make fuzz`: many thousands of bad inputs, and what became of them, written into docs/robustness.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import ADDRESS_SPACE_BYTES, CASE_LIMIT_S
from tests.fuzz.wire import attack_receiver

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "robustness.md"
CHUNK = 500
SHARES = {"received": 0.5, "opened": 0.36, "configured": 0.12, "wire": 0.02}
"""Which part of the cases each target gets."""


@dataclass
class Tally:
    """What became of the cases of one target."""

    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    peak_bytes: int = 0

    def count(self, seed: int, end: str, seconds: float, peak_bytes: int) -> None:
        self.ends["finding" if end.startswith("finding") else end] += 1
        if end.startswith("finding"):
            self.findings.append(f"seed {seed}: {end.removeprefix('finding: ')}")
        self.longest_s = max(self.longest_s, seconds)
        self.peak_bytes = max(self.peak_bytes, peak_bytes)


def fuzz(target: str, first_seed: int, count: int) -> Tally:
    """Run `count` cases in processes of their own; one that dies is a finding, and the next goes on."""
    tally, seed, end = Tally(), first_seed, first_seed + count
    while seed < end:
        command = [sys.executable, "-m", "tests.fuzz.child", target, str(seed), str(min(CHUNK, end - seed))]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        begun = seed
        for line in ran.stdout.splitlines():
            case = json.loads(line)
            if "begun" in case:
                begun = case["begun"]
            else:
                tally.count(case["ended"], case["end"], case["s"], case["peak_bytes"])
                seed = case["ended"] + 1
        if ran.returncode != 0:
            tally.count(begun, f"finding: the process died with {ran.returncode}: {ran.stderr[-200:]}", 0, 0)
            seed = begun + 1
    return tally


def attack(target: str, first_seed: int, count: int) -> Tally:
    """Run the cases of any target."""
    if target != "wire":
        return fuzz(target, first_seed, count)
    tally = Tally()
    attack_receiver(first_seed, count, tally.count)
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """The figures of a run."""
    ends = ("refused", "parked", "taken", "finding")
    lines = [
        "| target | cases | " + " | ".join(ends) + " | longest (s) | most memory (MiB) |",
        "|---|" + "---|" * 7,
    ]
    for name, tally in tallies.items():
        counts = " | ".join(str(tally.ends[end]) for end in ends)
        figures = f"{tally.longest_s:.1f} | {tally.peak_bytes / 2**20:.0f}"
        lines.append(f"| {name} | {tally.ends.total()} | {counts} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    asked = parser.parse_args()
    with ThreadPoolExecutor(len(SHARES)) as at_once:
        running = {
            target: at_once.submit(attack, target, asked.seed, round(asked.cases * share))
            for target, share in SHARES.items()
        }
    tallies = {target: ran.result() for target, ran in running.items()}
    print(table(tallies), *(finding for tally in tallies.values() for finding in tally.findings), sep="\n")
    if asked.write:
        head, _, _ = PAGE.read_text("utf-8").partition("## The last run\n")
        limits = f"{ADDRESS_SPACE_BYTES / 2**30:.0f} GiB of address space, {CASE_LIMIT_S} s for a case"
        command = f"python -m tests.fuzz --cases {asked.cases} --seed {asked.seed} --write"
        PAGE.write_text(
            f"{head}## The last run\n\n`{command}`; limits: {limits}.\n\n{table(tallies)}\n", "utf-8"
        )
    sys.exit(any(tally.findings for tally in tallies.values()))


if __name__ == "__main__":
    main()
